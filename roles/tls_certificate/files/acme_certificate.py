"""Obtain and renew a site's certificate from an ACME authority: acme-certificate SETTINGS [--force].

Several hosts may serve the site. The first of them that answers obtains the certificate. The others copy the newest one
from any host, encrypted with a key that all of them have. Another host may be broken or compromised: its certificate is
used only if clients will trust it, and otherwise this host asks the authority. certbot talks to the authority and
decides when a certificate is due; this program installs certificate and key atomically where the web server reads them,
after the server has tested them, and reloads the server. After a failure the served certificate stays, the rest of the
run goes on, and status.json has the error for the operator.

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
import itertools
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
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization

ANSWER_SECONDS = 5.0
BUNDLE_BYTES = 256 * 1024
# what another host may send: more than any authority's chain, and than a key of RSA 8192, which takes seconds to check
CHAIN_BYTES, CHAIN_CERTIFICATES, KEY_BYTES = 64 * 1024, 8, 8 * 1024
TEST_SECONDS = 30
# the unit is stopped after 30 minutes
CERTBOT_SECONDS = 25 * 60
# how long a host without a certificate waits for one with precedence, so that not all ask the authority at once
WAIT_SECONDS = 3600
DAY = 86400
# sources of certificates other than addresses
AUTHORITY, IN_USE = "the authority's", "the one in use"
CAUSE_CHARACTERS = 600
# remaining share of the lifetime: when to renew a certificate of another host, and when not to wait for the first host
DUE, URGENT = 1 / 3, 1 / 4
# messages about certbot's own files, which a crash, the authority or another host of the account can make useless, and
# the files without which certbot begins anew
USELESS = (
    (
        # unknown, deactivated, with another key (Boulder, Pebble); unreadable, more than one (certbot)
        re.compile(
            r"accountDoesNotExist|Account \S+ not found|Account is not valid|Account has been deactivated"
            r"|account with the provided public key exists but is deactivated|JWS verification error"
            r"|DeserializationError|Please choose an account"
        ),
        ("accounts",),
    ),
    (
        re.compile(r"(archive|live) directory exists for|Unable to load PEM|CertStorageError|error parsing /"),
        ("renewal/{name}.conf", "live/{name}", "archive/{name}"),
    ),
)
# the certificate's files alone, without the rest of the web server's configuration
NGINX_TEST = """user root;
pid {work}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {work}/scratch;
    proxy_temp_path {work}/scratch;
    fastcgi_temp_path {work}/scratch;
    uwsgi_temp_path {work}/scratch;
    scgi_temp_path {work}/scratch;
    server {{
        listen unix:{work}/socket ssl;
        ssl_certificate "{folder}/fullchain.pem";
        ssl_certificate_key "{folder}/privkey.pem";
    }}
}}
"""
NOISE = re.compile(
    r"^(Saving debug log|Ask for help|See the logfile|Hint: |Some challenges have failed|Certbot failed to authent"
    r"|The Certificate Authority (reported|failed)|An unexpected error occurred|(Requesting|Renewing) "
    r"|Account registered)"
)


class AcmeError(Exception):
    """An error, in one sentence for the operator."""


class RefusedError(AcmeError):
    """A certificate that this host doesn't use, and why."""


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
    roots: tuple[str, ...]  # files with authorities that are trusted like the public ones
    environment: dict[str, str]

    @classmethod
    def read(cls, path: str) -> Settings:
        """Read a JSON file with a key for each field."""
        found = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        fields: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in found.items()}
        return cls(**fields)

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
    def age(self) -> float:
        """Seconds since the begin of its validity."""
        return (datetime.datetime.now(datetime.UTC) - self.certificate.not_valid_before_utc).total_seconds()

    @property
    def digest(self) -> str:
        """A digest for the name of its folder."""
        return hashlib.sha256(self.chain.encode()).hexdigest()[:16]

    @property
    def names(self) -> set[str]:
        """The host names that it is for; none if they can't be read."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            return set()
        return {name.lower() for name in found.get_values_for_type(x509.DNSName)}

    def covers(self, names: tuple[str, ...]) -> bool:
        """Whether it is for exactly these names."""
        return self.names == {name.lower() for name in names}

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


def text(path: pathlib.Path) -> str:
    """Read a small file of this program; empty if it is missing or unreadable."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def printable(words: object) -> str:
    """Return a message without control characters, in the length of a sentence."""
    return "".join(character if character.isprintable() else " " for character in str(words))[:CAUSE_CHARACTERS]


def served(settings: Settings) -> Pair | None:
    """Return the web server's certificate if it is from this directory; otherwise None."""
    return Pair.read(settings.link) if text(settings.link / "directory") == settings.directory else None


def write(path: pathlib.Path, content: str, mode: int) -> None:
    """Replace a file atomically; a loss of power leaves the old or the new one."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as scratch:
        os.fchmod(scratch.fileno(), mode)
        scratch.write(content)
        scratch.flush()
        os.fsync(scratch.fileno())
    os.replace(scratch.name, path)
    sync(path.parent)


def sync(folder: pathlib.Path) -> None:
    """Sync a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point(settings: Settings, target: str) -> None:
    """Point the web server's link to another folder, atomically."""
    scratch = settings.link.with_name(f".{settings.name}-link")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    scratch.replace(settings.link)
    sync(settings.link.parent)


def deploy(settings: Settings, pair: Pair) -> None:
    """Install a certificate and reload the web server.

    Raises:
        RefusedError: the web server can't use it, and never saw it.
        AcmeError: the web server's reload failed, and it keeps the previous one.
    """
    folder = settings.link.with_name(f".{settings.name}-acme-{pair.digest}")
    previous = os.readlink(settings.link) if settings.link.is_symlink() else ""
    # also if files of the folder in use were damaged
    if served(settings) != pair:
        folder.mkdir(mode=0o755, exist_ok=True)
        write(folder / "privkey.pem", pair.key, 0o600)
        write(folder / "fullchain.pem", pair.chain, 0o644)
        write(folder / "directory", settings.directory, 0o644)
    if previous != folder.name:
        try:
            check_with_server(settings, folder)
        except RefusedError:
            shutil.rmtree(folder)
            raise
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


def check_with_server(settings: Settings, folder: pathlib.Path) -> None:
    """Let nginx load the certificate of a folder, before its own configuration refers to it; it need not run.

    Raises:
        RefusedError: with nginx's message.
    """
    program = shutil.which("nginx")
    if settings.reload_unit != "nginx.service" or program is None:
        return
    with tempfile.TemporaryDirectory() as work:
        configuration = pathlib.Path(work, "nginx.conf")
        configuration.write_text(NGINX_TEST.format(work=work, folder=folder))
        status, output = run([program, "-t", "-q", "-c", str(configuration)], None, TEST_SECONDS)
    causes = [
        line.partition("[emerg] ")[2] for line in output.splitlines() if "[emerg]" in line and str(folder) in line
    ]
    # another error, such as a full disk, isn't the certificate's; the unit's reload tests the configuration again
    if status and causes:
        raise RefusedError(f"nginx rejects it: {'; '.join(causes)}")


def reload(settings: Settings, folder: str) -> None:
    """Reload the web server, unless it has loaded this folder; an earlier run may have been killed before the reload.

    The unit's reload tests the configuration first.

    Raises:
        AcmeError: the reload failed.
    """
    loaded = pathlib.Path(settings.state, "loaded")
    if text(loaded) == folder:
        return
    unit = settings.reload_unit
    if unit and subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False).returncode == 0:
        since = time.time()
        done = subprocess.run(["systemctl", "reload", unit], check=False, text=True, capture_output=True)
        if done.returncode:
            causes = logged(unit, since) or done.stderr.splitlines()
            raise AcmeError(f"{unit} doesn't reload with the new certificate: {printable('; '.join(causes))}")
    write(loaded, folder, 0o644)


def logged(unit: str, since: float) -> list[str]:
    """Return the lines that a unit's processes logged since a time; none if the journal can't be read."""
    # of the processes alone, without systemd's messages about the unit
    reading = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--since=@{since:.3f}", f"_SYSTEMD_UNIT={unit}"]
    try:
        # journald may process them after systemctl returns
        run(["journalctl", "--sync"], None, TEST_SECONDS)
        status, output = run(reading, None, TEST_SECONDS)
    except (AcmeError, OSError):
        return []
    return [] if status else [line for line in output.splitlines() if line]


def publish(settings: Settings, pair: Pair) -> None:
    """Provide certificate and key to the other hosts, encrypted."""
    path = pathlib.Path(settings.state, "bundle")
    if not settings.peers:
        path.unlink(missing_ok=True)
        return
    try:
        published = decrypt(settings, path.read_bytes())
    # missing, damaged, or of another key
    except Exception:
        published = None
    if published != (settings.directory, pair):
        content = json.dumps({"directory": settings.directory, "chain": pair.chain, "key": pair.key})
        write(path, Fernet(settings.sharing_key).encrypt(content.encode()).decode(), 0o644)


def decrypt(settings: Settings, bundle: bytes) -> tuple[str, Pair]:
    """Return the ACME directory and the certificate of a bundle. Raises any exception if the bundle is invalid."""
    found = json.loads(Fernet(settings.sharing_key).decrypt(bundle))
    return str(found["directory"]), Pair(str(found["chain"]), str(found["key"]))


def offered(settings: Settings, bundle: bytes, here: Pair | None) -> Pair | None:
    """Return another host's certificate if it should replace this host's (`here`).

    None if it isn't newer, or if the hosts' settings differ, as while site.yml runs.

    Raises:
        AcmeError: it must not be used.
    """
    if not bundle:
        return None
    try:
        directory, pair = decrypt(settings, bundle)
        if len(pair.chain) > CHAIN_BYTES or len(pair.key) > KEY_BYTES:
            raise RefusedError("it is too large")
        if not pair.names:
            raise RefusedError("it has no readable host name")
        wanted = directory == settings.directory and pair.covers(settings.names) and pair.left > 0
        return verified(settings, pair) if wanted and newer(pair, here) else None
    except AcmeError:
        raise
    # of any type: the other host may be compromised, and must not keep this one from renewing
    except Exception as error:
        raise RefusedError(f"it can't be read ({type(error).__name__})") from error


def verified(settings: Settings, pair: Pair) -> Pair:
    """Return a certificate that another host offers, without anything in its files that clients don't need.

    Raises:
        AcmeError: clients wouldn't trust it.
        Exception: of any type, if it is invalid.
    """
    found = x509.load_pem_x509_certificates(pair.chain.encode())
    if len(found) > CHAIN_CERTIFICATES:
        raise RefusedError(f"its chain has more than {CHAIN_CERTIFICATES} certificates")
    try:
        for certificate, issuer in itertools.pairwise(found):
            certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise RefusedError("a certificate of its chain isn't issued by the next one") from error
    with tempfile.TemporaryDirectory() as work:
        chain, roots = pathlib.Path(work, "chain.pem"), pathlib.Path(work, "roots.pem")
        chain.write_text("".join(map(pem, found)))
        roots.write_text(trusted(settings))
        words = ["openssl", "verify", "-purpose", "sslserver", "-auth_level", "2", "-partial_chain"]
        also = ["-CAfile", str(roots)] if roots.stat().st_size else []
        status, output = run([*words, *also, "-untrusted", str(chain), str(chain)], None, TEST_SECONDS)
        if status:
            # "error 20 at 0 depth lookup: unable to get local issuer certificate"
            causes = re.findall(r"^error \d+ at \d+ depth lookup: *(.*)", output, re.MULTILINE)
            why = "; ".join(causes) or "OpenSSL cannot read it"
            advice = " (is its root missing in tls_certificate_roots_source?)" if "issuer" in why else ""
            raise RefusedError(f"clients would not trust it: {why}{advice}")
        return Pair(chain.read_text(), pair.key).check()


def trusted(settings: Settings) -> str:
    """Return the authorities that are trusted in addition to the public roots, in PEM.

    They are the configured ones, and those that issued what this host's certbot got from the ACME directory.
    """
    found = []
    for path in (*map(pathlib.Path, settings.roots), settings.lineage / "chain.pem"):
        with contextlib.suppress(OSError, ValueError):
            found += x509.load_pem_x509_certificates(path.read_bytes())
    return "".join(map(pem, found))


def pem(certificate: x509.Certificate) -> str:
    """Return a certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: another host must not choose what this one requests."""

    def redirect_request(self, *_: object) -> None:
        """Return no request."""


def ask(settings: Settings, address: str) -> bytes | None:
    """Return another host's bundle, empty if it has none; None if the host doesn't answer."""
    host = next((name for name in settings.names if not name.startswith("*")), settings.names[0].replace("*", "any"))
    url = f"http://{address}:{settings.port}/.well-known/acme-certificate"
    request = urllib.request.Request(url, headers={"Host": host})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)
    try:
        with at_most(ANSWER_SECONDS), opener.open(request) as answer:
            return bytes(answer.read(BUNDLE_BYTES))
    except urllib.error.HTTPError:
        return b""
    except (OSError, ValueError, http.client.HTTPException):
        return None


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
    if force or (issued.exists() and text(issued) != settings.profile):
        words.append("--force-renewal")
    # only the owner may read it, because it contains keys
    pathlib.Path(settings.lineages).mkdir(mode=0o700, parents=True, exist_ok=True)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": settings.lineages, "LC_ALL": "C.UTF-8"}
    environment |= settings.environment
    status, output = run(words, environment, CERTBOT_SECONDS)
    for messages, paths in USELESS:
        if status and messages.search(output):
            with set_aside(settings, paths) as aside:
                status, output = run(words, environment, CERTBOT_SECONDS)
                aside.useless = status == 0
    if status:
        raise AcmeError(cause(output))
    if (pair := Pair.read(settings.lineage)) is None:
        raise AcmeError("certbot succeeded, but left no valid certificate")
    if missing := {name.lower() for name in settings.names} - pair.names:
        raise AcmeError(f"the authority's certificate isn't for {', '.join(sorted(missing))}")
    write(issued, settings.profile, 0o600)
    return pair


@dataclasses.dataclass
class Aside:
    """Files of certbot that were moved, and whether to delete them instead of moving them back."""

    useless: bool = False


@contextlib.contextmanager
def set_aside(settings: Settings, paths: Sequence[str]) -> Iterator[Aside]:
    """Move files of certbot away; move them back unless it turned out that they are useless."""
    folder, found = pathlib.Path(settings.state, "aside"), Aside()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    moved = {}
    for number, path in enumerate(paths):
        before = pathlib.Path(settings.lineages, path.format(name=settings.name))
        if before.exists():
            moved[before] = before.rename(folder / str(number))
    try:
        yield found
    finally:
        if not found.useless:
            for before, after in moved.items():
                if before.is_dir():
                    shutil.rmtree(before)
                after.replace(before)
        shutil.rmtree(folder)


def run(words: Sequence[str], environment: Mapping[str, str] | None, seconds: float) -> tuple[int, str]:
    """Run a command. Returns its exit status and output, which is also printed to the journal.

    Raises:
        AcmeError: it doesn't end in time.
    """
    try:
        done = subprocess.run(
            words, check=False, text=True, capture_output=True, env=environment, errors="replace", timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise AcmeError(f"{pathlib.Path(words[0]).name} did not end within {seconds:.0f} seconds") from error
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
    return printable("; ".join(causes)) or "certbot failed without a message"


@dataclasses.dataclass
class Outcome:
    """What a run has to tell the operator."""

    troubles: list[str] = dataclasses.field(default_factory=list)  # why there is no newer certificate
    refused: dict[str, str] = dataclasses.field(default_factory=dict)  # why certificates aren't used, by their source
    waits: bool = False  # whether another host has to obtain the first one


def usable(settings: Settings, own: Pair | None, outcome: Outcome) -> Pair | None:
    """Return the served certificate if it is for these names, and either certbot's own (`own`) or a trusted one."""
    here = served(settings)
    if here is None or not here.covers(settings.names):
        return None
    try:
        if own is None or own.chain != here.chain:
            verified(settings, here)
        check_with_server(settings, settings.link)
    # of any type: an earlier version may have copied it from another host without verification
    except Exception as error:
        outcome.refused[IN_USE] = str(error)
        return None
    return here


def adopt(settings: Settings, offers: Mapping[str, Pair], here: Pair | None, outcome: Outcome) -> Pair | None:
    """Deploy the newest certificate that the web server accepts; return the one in use. `offers`: newer ones."""
    for source, pair in sorted(offers.items(), key=lambda one: one[1].certificate.not_valid_before_utc, reverse=True):
        try:
            deploy(settings, pair)
        except RefusedError as error:
            outcome.refused[source] = str(error)
        else:
            return pair
    if here is not None:
        # an interrupted run may not have reloaded
        deploy(settings, here)
    return here


def keep(settings: Settings, force: bool, waited: bool, outcome: Outcome) -> None:
    """Update the served certificate. What fails has no effect on the rest, and is in `outcome`.

    `waited`: whether this host has waited long enough for one with precedence to obtain the first certificate.
    """
    own = Pair.read(settings.lineage)
    here = usable(settings, own, outcome)
    offers: dict[str, Pair] = {}
    answers = {address: ask(settings, address) for address in settings.peers}
    for address, bundle in answers.items():
        try:
            if (pair := offered(settings, bundle or b"", here)) is not None:
                offers[address] = pair
        except AcmeError as error:
            outcome.refused[address] = str(error)
    # may be one that the web server rejected, or that an interrupted run obtained
    if own is not None and own.covers(settings.names) and own.left > 0 and newer(own, here):
        offers[AUTHORITY] = own
    try:
        here = adopt(settings, offers, here, outcome)
    except AcmeError as error:
        outcome.troubles.append(str(error))
    if here is not None:
        publish(settings, here)
    # a host whose certificate must not be used has no precedence
    first = all(answers[address] is None or address in outcome.refused for address in settings.before)
    # only the certbot that obtained the certificate in use can ask the authority when to renew it (ARI), also if its
    # host has no precedence; for a copy, the age decides
    own_in_use = own is not None and here is not None and own.chain == here.chain
    due = here is None or here.left < DUE
    urgent = here is not None and here.left < URGENT
    outcome.waits = here is None and not first
    if not (force or own_in_use or (first and due) or urgent or (outcome.waits and waited)):
        return
    # for certbot it isn't due, but another one may be better; at most daily, because authorities limit their number
    again = own is not None and AUTHORITY in outcome.refused and own.age > DAY
    try:
        found = obtain(settings, force or again)
        outcome.waits = False
        refused_before = found == own and AUTHORITY in outcome.refused
        if not refused_before and (here is None or (found.chain != here.chain and newer(found, here))):
            deploy(settings, found)
            publish(settings, found)
    except RefusedError as error:
        outcome.refused[AUTHORITY] = str(error)
    except AcmeError as error:
        outcome.troubles.append(str(error))


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
        outcome, since = Outcome(), waiting_since(settings)
        try:
            keep(settings, given.force, since is not None and not 0 <= time.time() - since < WAIT_SECONDS, outcome)
        # of any type: it must reach the operator
        except Exception as error:
            traceback.print_exc()
            outcome.troubles.append(printable(error) or type(error).__name__)
        if outcome.waits and not outcome.troubles:
            outcome.troubles.append(f"{settings.before[0]}, which has to obtain it, doesn't have it yet")
        refused = [
            f"{'that of ' if source in settings.addresses else ''}{source}: {printable(why)}"
            for source, why in outcome.refused.items()
        ]
        trouble = "; ".join(dict.fromkeys(outcome.troubles))
        status = {
            "when": time.time(),
            "directory": settings.directory,
            "names": settings.names,
            "trouble": trouble,
            "refused": refused,
            "waits_since": (since or time.time()) if outcome.waits else None,
            "issued": served(settings) is not None,
        }
        write(pathlib.Path(settings.state, "status.json"), json.dumps(status), 0o644)
    names = ", ".join(settings.names)
    for words in refused:
        print(f"Unusable certificate for {names}, {words}", file=sys.stderr)
    if trouble:
        print(f"No new certificate for {names} from {settings.directory}: {trouble}", file=sys.stderr)
    return 1 if trouble or AUTHORITY in outcome.refused else 0


def waiting_since(settings: Settings) -> float | None:
    """Return since when this host has waited for another one's first certificate; None if it didn't wait."""
    try:
        return float(json.loads(text(pathlib.Path(settings.state, "status.json")))["waits_since"])
    # damaged, of an earlier version, or None
    except Exception:
        return None


if __name__ == "__main__":
    sys.exit(main())
