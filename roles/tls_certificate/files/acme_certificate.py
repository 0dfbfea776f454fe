"""Obtain and renew a site's certificate from an ACME authority: acme-certificate SETTINGS [--force].

Several hosts may serve the site. The first of them that answers obtains the certificate. The others copy the newest one
from any host, encrypted with a key that all of them have. certbot talks to the authority and decides when a certificate
is due; this program installs certificate and key atomically where the web server reads them, and reloads the server.
If the server rejects them, the previous ones are restored. After a failure the served certificate stays, and
status.json has the error for the operator.

Runs as root in certbot's venv, which includes `cryptography`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization

ANSWER_SECONDS = 5.0
BUNDLE_BYTES = 256 * 1024
CAUSE_CHARACTERS = 600
# remaining share of the lifetime: when to renew a certificate of another host, and when not to wait for the first host
DUE, URGENT = 1 / 3, 1 / 4
# Boulder's problem type, and Pebble's message
UNKNOWN_ACCOUNT = re.compile(r"accountDoesNotExist|Account \S+ not found")
NOISE = re.compile(
    r"^(Saving debug log|Ask for help|See the logfile|Hint: |Some challenges have failed|Certbot failed to authent"
    r"|The Certificate Authority (reported|failed)|An unexpected error occurred|(Requesting|Renewing) "
    r"|Account registered)"
)


class AcmeError(Exception):
    """An error, in one sentence for the operator."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings that the role wrote. Addresses are those at which hosts reach each other, in order of precedence."""

    name: str
    names: tuple[str, ...]
    directory: str
    profile: str
    certbot: str
    options: str
    lineages: str
    state: str
    certificates: str
    own_address: str
    addresses: tuple[str, ...]
    port: int
    sharing_key: str
    reload_unit: str
    environment: dict[str, str]

    @classmethod
    def read(cls, path: str) -> Settings:
        """Read a JSON file with a key for each field."""
        found: dict[str, Any] = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        return cls(**{**found, "names": tuple(found["names"]), "addresses": tuple(found["addresses"])})

    @property
    def link(self) -> pathlib.Path:
        """The link through which the web server reads its files."""
        return pathlib.Path(self.certificates, self.name)

    @property
    def lineage(self) -> pathlib.Path:
        """The folder of certbot's newest certificate from this directory."""
        return pathlib.Path(self.lineages, "live", self.name)

    @property
    def peers(self) -> list[str]:
        """The addresses of the other hosts."""
        return [address for address in self.addresses if address != self.own_address]

    @property
    def before(self) -> list[str]:
        """The addresses of hosts with precedence over this one."""
        if self.own_address not in self.addresses:
            return []
        return list(self.addresses[: self.addresses.index(self.own_address)])


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key, in PEM."""

    chain: str
    key: str

    @property
    def certificate(self) -> x509.Certificate:
        """The server's certificate, the first of the chain."""
        return x509.load_pem_x509_certificates(self.chain.encode())[0]

    @property
    def left(self) -> float:
        """The remaining share of its lifetime; 0 or less if it has expired."""
        found = self.certificate
        whole = (found.not_valid_after_utc - found.not_valid_before_utc).total_seconds()
        return (found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).total_seconds() / max(whole, 1)

    @property
    def digest(self) -> str:
        """A digest for the name of its folder."""
        return hashlib.sha256(self.chain.encode()).hexdigest()[:16]

    def covers(self, names: tuple[str, ...]) -> bool:
        """Whether it is for exactly these names."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        return {name.lower() for name in found.get_values_for_type(x509.DNSName)} == {name.lower() for name in names}

    def check(self) -> Pair:
        """Return itself, if both can be parsed and belong together.

        Raises:
            AcmeError: they can't, or don't.
        """
        try:
            public = serialization.load_pem_private_key(self.key.encode(), None).public_key()
            found = self.certificate.public_key()
        except (ValueError, TypeError, IndexError) as error:
            raise AcmeError(f"the certificate or its key can't be read: {error}") from error
        form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        if public.public_bytes(*form) != found.public_bytes(*form):
            raise AcmeError("the key doesn't belong to the certificate")
        return self

    @classmethod
    def read(cls, folder: pathlib.Path) -> Pair | None:
        """Read certificate and key from a folder; None if they are missing or invalid."""
        try:
            return cls(*((folder / file).read_text() for file in ("fullchain.pem", "privkey.pem"))).check()
        except (OSError, ValueError, AcmeError):
            return None


def served(settings: Settings) -> Pair | None:
    """Return the web server's certificate if it is from this directory; otherwise None."""
    origin = settings.link / "directory"
    return Pair.read(settings.link) if origin.exists() and origin.read_text() == settings.directory else None


def write(path: pathlib.Path, text: str, mode: int) -> None:
    """Replace a file atomically."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as scratch:
        os.fchmod(scratch.fileno(), mode)
        scratch.write(text)
        scratch.flush()
        os.fsync(scratch.fileno())
    os.replace(scratch.name, path)


def point(settings: Settings, target: str) -> None:
    """Point the web server's link to another folder, atomically."""
    scratch = settings.link.with_name(f".{settings.name}-link")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(settings.link)


def deploy(settings: Settings, pair: Pair) -> None:
    """Install a certificate and reload the web server.

    Raises:
        AcmeError: the web server rejects it and keeps the previous one.
    """
    folder = settings.link.with_name(f".{settings.name}-acme-{pair.digest}")
    previous = os.readlink(settings.link) if settings.link.is_symlink() else ""
    if previous != folder.name:
        folder.mkdir(mode=0o755, exist_ok=True)
        write(folder / "privkey.pem", pair.key, 0o600)
        write(folder / "fullchain.pem", pair.chain, 0o644)
        write(folder / "directory", settings.directory, 0o644)
        point(settings, folder.name)
    try:
        reload(settings, folder.name)
    except AcmeError:
        if previous and previous != folder.name:
            point(settings, previous)
            shutil.rmtree(folder)
        raise
    for old in settings.link.parent.glob(f".{settings.name}-*"):
        # only folders of this certificate, whose name may be a prefix of another's
        suffix = old.name.removeprefix(f".{settings.name}-")
        if old.name != folder.name and re.fullmatch(r"(acme-)?[0-9a-f]{16}|self-signed", suffix):
            shutil.rmtree(old)


def reload(settings: Settings, folder: str) -> None:
    """Reload the web server, unless it has loaded this folder; an earlier run may have been killed before the reload.

    The unit's reload tests the configuration first.

    Raises:
        AcmeError: the reload failed.
    """
    loaded = pathlib.Path(settings.state, "loaded")
    if loaded.exists() and loaded.read_text() == folder:
        return
    unit = settings.reload_unit
    if unit and subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0:
        done = subprocess.run(["systemctl", "reload", unit], check=False, text=True, capture_output=True)
        if done.returncode:
            raise AcmeError(f"{unit} rejects the new certificate (see `journalctl -u {unit}`): {done.stderr.strip()}")
    write(loaded, folder, 0o644)


def publish(settings: Settings, pair: Pair) -> None:
    """Provide certificate and key to the other hosts, encrypted."""
    path = pathlib.Path(settings.state, "bundle")
    if not settings.peers:
        path.unlink(missing_ok=True)
        return
    if unpack(settings, path.read_bytes() if path.exists() else b"") != pair:
        text = json.dumps({"directory": settings.directory, "chain": pair.chain, "key": pair.key})
        write(path, Fernet(settings.sharing_key).encrypt(text.encode()).decode(), 0o644)


def unpack(settings: Settings, bundle: bytes) -> Pair | None:
    """Decrypt another host's valid certificate and its key; None if they aren't of this directory and these names."""
    try:
        found = json.loads(Fernet(settings.sharing_key).decrypt(bundle))
        pair = Pair(str(found["chain"]), str(found["key"])).check()
        fits = found["directory"] == settings.directory and pair.covers(settings.names) and pair.left > 0
        return pair if fits else None
    # of any type: the other host may be compromised, and must not keep this one from renewing
    except Exception:
        return None


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: another host must not choose what this one requests."""

    def redirect_request(self, *_: object) -> None:
        """Return no request."""


def ask(settings: Settings, address: str) -> tuple[bool, Pair | None]:
    """Return whether another host answers, and its certificate."""
    host = next((name for name in settings.names if not name.startswith("*")), settings.names[0].replace("*", "any"))
    url = f"http://{address}:{settings.port}/.well-known/acme-certificate"
    request = urllib.request.Request(url, headers={"Host": host})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)
    try:
        with at_most(ANSWER_SECONDS), opener.open(request) as answer:
            return True, unpack(settings, answer.read(BUNDLE_BYTES))
    except urllib.error.HTTPError:
        return True, None
    except (OSError, ValueError, http.client.HTTPException):
        return False, None


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after this time: a host that sends byte after byte must not keep the others from renewing."""

    def expire(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def newer(one: Pair, other: Pair | None) -> bool:
    """Whether a certificate should replace another one."""
    return other is None or one.certificate.not_valid_before_utc > other.certificate.not_valid_before_utc


def obtain(settings: Settings, force: bool) -> Pair:
    """Return certbot's newest certificate; certbot requests one from the authority if it is due.

    Raises:
        AcmeError: with the authority's message.
    """
    issued = pathlib.Path(settings.lineages, "profile")
    words = [settings.certbot, "certonly", "--config", settings.options]
    # certbot doesn't replace a certificate of another profile before it is due
    if force or (issued.exists() and issued.read_text() != settings.profile):
        words.append("--force-renewal")
    # only the owner may read it, because it contains keys
    pathlib.Path(settings.lineages).mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": settings.lineages, "LC_ALL": "C.UTF-8"}
    status, output = run(words, environment | settings.environment)
    if status and UNKNOWN_ACCOUNT.search(output):
        # staging authorities delete accounts, and accounts can be deactivated: register another one
        shutil.rmtree(pathlib.Path(settings.lineages, "accounts"), ignore_errors=True)
        status, output = run(words, environment | settings.environment)
    if status:
        raise AcmeError(cause(output))
    if (pair := Pair.read(settings.lineage)) is None:
        raise AcmeError("certbot succeeded, but left no valid certificate")
    write(issued, settings.profile, 0o600)
    return pair


def run(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command. Returns its exit status and output, which is also printed to the journal."""
    done = subprocess.run(words, check=False, text=True, capture_output=True, env=environment, errors="replace")
    print(done.stdout, done.stderr, sep="\n", flush=True)
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def cause(output: str) -> str:
    """Return the cause of a failure from certbot's output, without its standard phrases."""
    lines = [line.strip() for line in output.splitlines()]
    problems, domain, kind = [], "", ""
    for line in lines:
        label, _, value = line.partition(":")
        if label in ("Domain", "Identifier"):
            domain = value.strip()
        elif label == "Type":
            kind = value.strip()
        elif label == "Detail":
            problems.append(f"{domain} ({kind}): {value.strip()}")
    causes = problems or [line for line in lines if line and not NOISE.match(line) and not set(line) <= {"-", " "}]
    text = "".join(character if character.isprintable() else " " for character in "; ".join(causes))
    return text[:CAUSE_CHARACTERS] or "certbot failed without a message"


def keep(settings: Settings, force: bool) -> Pair | None:
    """Update the served certificate. Returns it; None while another host has to obtain the first one.

    Raises:
        AcmeError: no newer one could be obtained; the current one stays.
    """
    here = served(settings)
    if here is not None and not here.covers(settings.names):
        here = None
    answers = {address: ask(settings, address) for address in settings.peers}
    for _, there in answers.values():
        if there is not None and newer(there, here):
            here = there
    # may be one that the web server rejected, or that an interrupted run obtained
    own = Pair.read(settings.lineage)
    if own is not None and own.covers(settings.names) and own.left > 0 and newer(own, here):
        here = own
    # certbot decides when its own certificate is due, but doesn't know one that was copied from another host
    mine = here is None or (own is not None and own.chain == here.chain)
    first = not any(answers[address][0] for address in settings.before)
    if here is not None:
        deploy(settings, here)
        publish(settings, here)
    due = mine or (here is not None and here.left < DUE)
    if force or (first and due) or (here is not None and here.left < URGENT):
        found = obtain(settings, force)
        if here is None or (found.chain != here.chain and newer(found, here)):
            here = found
            deploy(settings, here)
            publish(settings, here)
    return here


@contextlib.contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Hold the lock of the certificate; waits for another run."""
    with pathlib.Path(settings.state, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Run once. Returns 1 if the certificate could not be updated."""
    parser = argparse.ArgumentParser(prog="acme-certificate", description="Keep a certificate from an ACME authority.")
    parser.add_argument("settings", help="JSON file that the role wrote")
    parser.add_argument("--force", action="store_true", help="obtain a new one now")
    given = parser.parse_args()
    settings = Settings.read(given.settings)
    # modes of secret files are set explicitly
    os.umask(0o022)
    with exclusive(settings):
        trouble, pair = "", None
        try:
            pair = keep(settings, given.force)
            if pair is None:
                trouble = f"{settings.before[0]}, which has to obtain it, doesn't have it yet"
        except (AcmeError, OSError) as error:
            trouble = str(error)
        status = {
            "when": time.time(),
            "directory": settings.directory,
            "names": settings.names,
            "trouble": trouble,
            "issued": served(settings) is not None,
        }
        write(pathlib.Path(settings.state, "status.json"), json.dumps(status), 0o644)
    if trouble:
        names = ", ".join(settings.names)
        print(f"No new certificate for {names} from {settings.directory}: {trouble}", file=sys.stderr)
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
