"""Files that systemd passes to a unit as credentials: plain, or encrypted at rest with a key of the host."""

from __future__ import annotations

import pathlib
import subprocess

# TOKEN.host.cred is the credential TOKEN, encrypted with the key that systemd-creds calls host; TOKEN is a plain one
SUFFIX = ".cred"
_TIMEOUT = 60.0  # seconds per credential; a TPM is slow


class CredentialError(Exception):
    """A credential can't be encrypted or decrypted on this host. The message names the file and the cause."""


def name(path: pathlib.Path) -> str:
    """Return the credential's name, which its encryption includes. It is a variable's name and so contains no dot."""
    return path.name.partition(".")[0]


def place(folder: str, token: str, key: str) -> pathlib.Path:
    """Return a credential's file. `key`: that of systemd-creds which encrypts it; "none" for a plain file."""
    return pathlib.Path(folder, token if key == "none" else f"{token}.{key}{SUFFIX}")


def read(path: pathlib.Path) -> bytes:
    """Return the content of a credential's file, decrypted if necessary. Raises CredentialError and OSError."""
    content = path.read_bytes()
    return _systemd_creds("decrypt", path, content) if path.suffix == SUFFIX else content


def encrypted(path: pathlib.Path, content: bytes) -> bytes:
    """Return the content encrypted for a file with this path's name. Raises CredentialError."""
    key = path.name.removesuffix(SUFFIX).partition(".")[2]
    return _systemd_creds("encrypt", path, content, f"--with-key={key}")


def property_of(path: pathlib.Path) -> str:
    """Return the unit's directive that loads the credential."""
    return f"LoadCredential{'Encrypted' if path.suffix == SUFFIX else ''}={name(path)}:{path}"


def _systemd_creds(verb: str, path: pathlib.Path, given: bytes, *options: str) -> bytes:
    words = ["systemd-creds", verb, f"--name={name(path)}", *options, "-", "-"]
    try:
        return subprocess.run(words, input=given, check=True, capture_output=True, timeout=_TIMEOUT).stdout
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
    except subprocess.TimeoutExpired:
        why = f"no response within {_TIMEOUT:.0f} s"
    except OSError as error:
        why = error.strerror or str(error)
    raise CredentialError(f"{path}: systemd-creds {verb}: {why}")
