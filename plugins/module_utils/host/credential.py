"""Files that systemd hands to a unit as credentials: plain, or encrypted at rest under a key of the host."""

from __future__ import annotations

import pathlib
import subprocess

# TOKEN.host.cred is the credential TOKEN, encrypted under the key that systemd-creds calls host; TOKEN is a plain one
SUFFIX = ".cred"
_TIMEOUT = 60.0  # seconds for one, as a TPM is slow


class CredentialError(Exception):
    """A credential can't be encrypted or decrypted on this host. The message names the file and the cause."""


def name(path: pathlib.Path) -> str:
    """The credential's name, by which it is encrypted too: that of a variable, which has no point."""
    return path.name.partition(".")[0]


def place(folder: str, token: str, key: str) -> pathlib.Path:
    """A credential's file; `key` is by which it is encrypted, in systemd-creds' words, or none for a plain one."""
    return pathlib.Path(folder, token if key == "none" else f"{token}.{key}{SUFFIX}")


def read(path: pathlib.Path) -> bytes:
    """The content of a credential's file, decrypted if need be. Raises CredentialError and OSError."""
    content = path.read_bytes()
    return _systemd_creds("decrypt", path, content) if path.suffix == SUFFIX else content


def encrypted(path: pathlib.Path, content: bytes) -> bytes:
    """What a file of this name has to hold for systemd to decrypt it to the content. Raises CredentialError."""
    key = path.name.removesuffix(SUFFIX).partition(".")[2]
    return _systemd_creds("encrypt", path, content, f"--with-key={key}")


def property_of(path: pathlib.Path) -> str:
    """The line of a unit that loads it."""
    return f"LoadCredential{'Encrypted' if path.suffix == SUFFIX else ''}={name(path)}:{path}"


def _systemd_creds(verb: str, path: pathlib.Path, given: bytes, *options: str) -> bytes:
    words = ["systemd-creds", verb, f"--name={name(path)}", *options, "-", "-"]
    try:
        return subprocess.run(words, input=given, check=True, capture_output=True, timeout=_TIMEOUT).stdout
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
    except subprocess.TimeoutExpired:
        why = f"no answer within {_TIMEOUT:.0f} s"
    except OSError as error:
        why = error.strerror or str(error)
    raise CredentialError(f"{path}: systemd-creds {verb}: {why}")
