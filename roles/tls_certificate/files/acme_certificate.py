"""Keeps a site's certificate from an ACME authority: acme-certificate SETTINGS [--force].

Several hosts may serve the site. One obtains the certificate: the first of them that answers. The others take it from
whichever has a newer one, encrypted with a key that all of them have. certbot talks to the authority and says when a
certificate is due; this program puts what it obtained where the web server reads it, with its key in one step, and has
the server reload. What the server doesn't accept is taken back. A failure leaves what is served, and is written to
status.json for the operator.

Runs as root in the environment of certbot, which brings `cryptography`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives import serialization

ANSWER_SECONDS = 5.0
BUNDLE_BYTES = 256 * 1024
CAUSE_CHARACTERS = 600
# of the lifetime: what is left when another host's certificate is due, and when the first host evidently can't
DUE, URGENT = 1 / 3, 1 / 4
# Boulder's type of the problem, and Pebble's words
UNKNOWN_ACCOUNT = re.compile(r"accountDoesNotExist|Account \S+ not found")
NOISE = re.compile(
    r"^(Saving debug log|Ask for help|See the logfile|Hint: |Some challenges have failed|Certbot failed to authent"
    r"|The Certificate Authority (reported|failed)|An unexpected error occurred|(Requesting|Renewing) "
    r"|Account registered)"
)


class AcmeError(Exception):
    """What went wrong, in one sentence for the operator."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the role wrote. Addresses are those by which the hosts reach each other, in the order of precedence."""

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
        """From a JSON file with a key for each field."""
        found: dict[str, Any] = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        return cls(**{**found, "names": tuple(found["names"]), "addresses": tuple(found["addresses"])})

    @property
    def link(self) -> pathlib.Path:
        """What the web server reads its files through."""
        return pathlib.Path(self.certificates, self.name)

    @property
    def lineage(self) -> pathlib.Path:
        """Where certbot keeps the newest certificate that it obtained from this directory."""
        return pathlib.Path(self.lineages, "live", self.name)

    @property
    def peers(self) -> list[str]:
        """The other hosts."""
        return [address for address in self.addresses if address != self.own_address]

    @property
    def before(self) -> list[str]:
        """The other hosts that obtain rather than this one."""
        if self.own_address not in self.addresses:
            return []
        return list(self.addresses[: self.addresses.index(self.own_address)])


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate with its chain, and its key, as PEM."""

    chain: str
    key: str

    @property
    def certificate(self) -> x509.Certificate:
        """The server's own, the first of the chain."""
        return x509.load_pem_x509_certificates(self.chain.encode())[0]

    @property
    def left(self) -> float:
        """The part of its lifetime that is left; not above 0 when it has ended."""
        found = self.certificate
        whole = (found.not_valid_after_utc - found.not_valid_before_utc).total_seconds()
        return (found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)).total_seconds() / max(whole, 1)

    @property
    def digest(self) -> str:
        """Names its folder."""
        return hashlib.sha256(self.chain.encode()).hexdigest()[:16]

    def covers(self, names: tuple[str, ...]) -> bool:
        """Whether it was made for exactly these names."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        return {name.lower() for name in found.get_values_for_type(x509.DNSName)} == {name.lower() for name in names}

    def check(self) -> Pair:
        """Itself, when both can be read and belong together.

        Raises:
            AcmeError: they don't.
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
        """What a folder holds; None when it holds nothing that is usable."""
        try:
            return cls(*((folder / file).read_text() for file in ("fullchain.pem", "privkey.pem"))).check()
        except (OSError, ValueError, AcmeError):
            return None


def served(settings: Settings) -> Pair | None:
    """The certificate from this directory that the web server reads; None while it is from elsewhere."""
    origin = settings.link / "directory"
    return Pair.read(settings.link) if origin.exists() and origin.read_text() == settings.directory else None


def write(path: pathlib.Path, text: str, mode: int) -> None:
    """Replace a file in one step."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as scratch:
        os.fchmod(scratch.fileno(), mode)
        scratch.write(text)
        scratch.flush()
        os.fsync(scratch.fileno())
    os.replace(scratch.name, path)


def point(settings: Settings, target: str) -> None:
    """Have the web server's path lead to another folder, in one step."""
    scratch = settings.link.with_name(f".{settings.name}-link")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(settings.link)


def deploy(settings: Settings, pair: Pair) -> None:
    """Serve a certificate.

    Raises:
        AcmeError: the web server refuses it, and goes on with what it had.
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
        # of this certificate alone, whose name may begin another's
        suffix = old.name.removeprefix(f".{settings.name}-")
        if old.name != folder.name and re.fullmatch(r"(acme-)?[0-9a-f]{16}|self-signed", suffix):
            shutil.rmtree(old)


def reload(settings: Settings, folder: str) -> None:
    """Have the web server read what it is pointed to, unless it has: a run may have ended between the two.

    The unit's reload tests the configuration before anything changes.

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
            raise AcmeError(f"{unit} refuses the new certificate (see `journalctl -u {unit}`): {done.stderr.strip()}")
    write(loaded, folder, 0o644)


def publish(settings: Settings, pair: Pair) -> None:
    """Lay the certificate and its key out for the other hosts, encrypted."""
    path = pathlib.Path(settings.state, "bundle")
    if not settings.peers:
        path.unlink(missing_ok=True)
        return
    if unpack(settings, path.read_bytes() if path.exists() else b"") != pair:
        text = json.dumps({"directory": settings.directory, "chain": pair.chain, "key": pair.key})
        write(path, Fernet(settings.sharing_key).encrypt(text.encode()).decode(), 0o644)


def unpack(settings: Settings, bundle: bytes) -> Pair | None:
    """What another host laid out; None when it is not what a host of ours wrote."""
    try:
        found = json.loads(Fernet(settings.sharing_key).decrypt(bundle))
        pair = Pair(str(found["chain"]), str(found["key"])).check()
        return pair if found["directory"] == settings.directory else None
    except (InvalidToken, ValueError, KeyError, TypeError, AcmeError):
        return None


def ask(settings: Settings, address: str) -> tuple[bool, Pair | None]:
    """Whether another host answers, and the certificate that it has."""
    host = next((name for name in settings.names if not name.startswith("*")), settings.names[0].replace("*", "any"))
    url = f"http://{address}:{settings.port}/.well-known/acme-certificate"
    request = urllib.request.Request(url, headers={"Host": host})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_SECONDS) as answer:
            return True, unpack(settings, answer.read(BUNDLE_BYTES))
    except urllib.error.HTTPError:
        return True, None
    except (OSError, ValueError):
        return False, None


def newer(one: Pair, other: Pair | None) -> bool:
    """Whether a certificate is to replace another."""
    return other is None or one.certificate.not_valid_before_utc > other.certificate.not_valid_before_utc


def obtain(settings: Settings, force: bool) -> Pair:
    """The newest certificate of certbot's, which asks the authority for one when that is due.

    Raises:
        AcmeError: with the authority's words.
    """
    issued = pathlib.Path(settings.lineages, "profile")
    words = [settings.certbot, "certonly", "--config", settings.options]
    # certbot itself keeps a certificate of another profile until it is due
    if force or (issued.exists() and issued.read_text() != settings.profile):
        words.append("--force-renewal")
    # read by the owner alone, as keys are in it
    pathlib.Path(settings.lineages).mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": settings.lineages, "LC_ALL": "C.UTF-8"}
    status, said = run(words, environment | settings.environment)
    if status and UNKNOWN_ACCOUNT.search(said):
        # a staging authority forgets, and accounts can be deactivated: another one is as good
        shutil.rmtree(pathlib.Path(settings.lineages, "accounts"), ignore_errors=True)
        status, said = run(words, environment | settings.environment)
    if status:
        raise AcmeError(cause(said))
    if (pair := Pair.read(settings.lineage)) is None:
        raise AcmeError("certbot ended well, but left no certificate that can be read")
    write(issued, settings.profile, 0o600)
    return pair


def run(words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit status of a command, and what it said, which goes to the journal too."""
    done = subprocess.run(words, check=False, text=True, capture_output=True, env=environment, errors="replace")
    print(done.stdout, done.stderr, sep="\n", flush=True)
    return done.returncode, f"{done.stdout}\n{done.stderr}"


def cause(output: str) -> str:
    """What certbot says of a failure, without what is said each time."""
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
    said = problems or [line for line in lines if line and not NOISE.match(line) and not set(line) <= {"-", " "}]
    text = "".join(character if character.isprintable() else " " for character in "; ".join(said))
    return text[:CAUSE_CHARACTERS] or "certbot failed without a word"


def keep(settings: Settings, force: bool) -> Pair | None:
    """Bring what is served up to date; None while another host is to obtain the first one.

    Raises:
        AcmeError: nothing newer is to be had, and what there is serves on.
    """
    here = served(settings)
    if here is not None and not here.covers(settings.names):
        here = None
    answers = {address: ask(settings, address) for address in settings.peers}
    for _, there in answers.values():
        if there is not None and there.covers(settings.names) and there.left > 0 and newer(there, here):
            here = there
    # also one that the web server refused, or that a run which was cut off left there
    own = Pair.read(settings.lineage)
    if own is not None and own.covers(settings.names) and own.left > 0 and newer(own, here):
        here = own
    # certbot knows when its own is due; it doesn't know of one that came from another host
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
def alone(settings: Settings) -> Iterator[None]:
    """Wait for another run of the same certificate."""
    with pathlib.Path(settings.state, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Run once; 1 when the certificate is not as it should be."""
    parser = argparse.ArgumentParser(prog="acme-certificate", description="Keep a certificate from an ACME authority.")
    parser.add_argument("settings", help="what the role wrote, a JSON file")
    parser.add_argument("--force", action="store_true", help="obtain a new one now")
    given = parser.parse_args()
    settings = Settings.read(given.settings)
    # what all may read says so itself
    os.umask(0o022)
    with alone(settings):
        trouble, pair = "", None
        try:
            pair = keep(settings, given.force)
            if pair is None:
                trouble = f"{settings.before[0]}, which is to obtain it, has none yet"
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
