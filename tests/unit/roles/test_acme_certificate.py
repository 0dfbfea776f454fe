"""The program that renews a certificate from an ACME authority; molecule/acme uses the real certbot."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.server
import json
import os
import pathlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

from tests.support import program
from tests.support.certificate import issue
from tests.support.program import write_script

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/tls_certificate/files/acme_certificate.py"
NAMES = ("links.example.org", "www.example.org")
FIRST, SECOND, THIRD = "127.0.0.11", "127.0.0.12", "127.0.0.13"
KEY = "A" * 43 + "="


acme = program.load(PROGRAM, "acme_certificate")


class Host:
    """A host's folders, certbot and systemctl."""

    def __init__(self, root: pathlib.Path, own: str, addresses: tuple[str, ...], port: int) -> None:
        self.root = root
        for folder in ("ssl", "state", "bin"):
            (root / folder).mkdir(parents=True)
        self.settings = acme.Settings(
            name="links",
            names=NAMES,
            directory="https://ca.example/dir",
            profile="",
            certbot=str(root / "bin/certbot"),
            options=str(root / "certbot.ini"),
            lineages=str(root / "state/certbot"),
            state=str(root / "state"),
            certificates=str(root / "ssl"),
            own_address=own,
            addresses=addresses,
            port=port,
            sharing_key=KEY,
            reload_unit="nginx.service",
            environment={},
        )
        # the certificate that serves until the authority issues one
        (root / "ssl/.links-self-signed").mkdir()
        (root / "ssl/links").symlink_to(".links-self-signed")
        self.program("systemctl", f'echo "$@" >> {root}/systemctl.log')
        self.certbot_fails("nothing was asked for")

    def program(self, name: str, body: str) -> None:
        write_script(self.root / "bin" / name, body)

    def certbot_obtains(self, pair: tuple[str, str]) -> None:
        (self.root / "new.pem").write_text(pair[0])
        (self.root / "new.key").write_text(pair[1])
        live = self.settings.lineage
        self.program(
            "certbot",
            f'echo "$@" >> {self.root}/certbot.log; mkdir -p {live}; cp {self.root}/new.pem {live}/fullchain.pem; '
            f"cp {self.root}/new.key {live}/privkey.pem",
        )

    def certbot_fails(self, words: str) -> None:
        self.program("certbot", f"echo \"$@\" >> {self.root}/certbot.log; cat <<'END'\n{words}\nEND\nexit 1")

    def run(self, force: bool = False, **changed: Any) -> dict[str, Any]:
        """Run the program as its unit does; return its status file."""
        settings = dataclasses.replace(self.settings, **changed)
        path = self.root / "settings.json"
        path.write_text(json.dumps(dataclasses.asdict(settings)))
        before, arguments = os.environ["PATH"], sys.argv
        os.environ["PATH"] = f"{self.root}/bin:{before}"
        sys.argv = ["acme-certificate", str(path), *(["--force"] if force else [])]
        try:
            status = acme.main()
        finally:
            os.environ["PATH"], sys.argv = before, arguments
        report: dict[str, Any] = json.loads((self.root / "state/status.json").read_text())
        assert status == bool(report["trouble"])
        return report

    @property
    def serves(self) -> str:
        return (self.root / "ssl/links/fullchain.pem").read_text()

    @property
    def certbot_calls(self) -> list[str]:
        log = self.root / "certbot.log"
        return log.read_text().splitlines() if log.exists() else []

    @property
    def reloads(self) -> int:
        log = self.root / "systemctl.log"
        return log.read_text().count("reload nginx.service") if log.exists() else 0


@pytest.fixture
def serve_bundle() -> Iterator[Callable[[str, pathlib.Path, int], int]]:
    """Serves a host's bundle at an address, as its nginx does. Returns the port."""
    servers = []

    def start(address: str, bundle: pathlib.Path, port: int) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = self.path == "/.well-known/acme-certificate" and self.headers["Host"] == NAMES[0]
                self.send_response(200 if found and bundle.exists() else 404)
                self.end_headers()
                if found and bundle.exists():
                    self.wfile.write(bundle.read_bytes())

            def log_message(self, *words: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer((address, port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return int(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def alone(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path / "alone", FIRST, (FIRST,), 80)


@pytest.fixture
def serve_slowly() -> Iterator[Callable[[str, bytes], int]]:
    """Answers one request at an address with a beginning, and then bytes at intervals. Returns the port."""
    with contextlib.ExitStack() as stack:

        def start(address: str, begin: bytes) -> int:
            listener = stack.enter_context(socket.create_server((address, 0)))

            def answer() -> None:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(4096)
                    connection.sendall(begin)
                    for _ in range(100):
                        time.sleep(0.05)
                        connection.sendall(b"x")

            thread = threading.Thread(target=answer)
            thread.start()
            stack.callback(thread.join)
            return int(listener.getsockname()[1])

        yield start


class Answers:
    """Servers at addresses, each of which answers every connection with some bytes."""

    def __init__(self) -> None:
        self.servers: list[socketserver.ThreadingTCPServer] = []
        self.asked: list[int] = []  # the ports that were connected to

    def start(self, address: str, answer: bytes) -> int:
        """Start a server; return its port."""

        def handle(connection: Any, _client: Any, server: Any) -> None:
            self.asked.append(server.server_address[1])
            connection.recv(4096)
            connection.sendall(answer)

        server = socketserver.ThreadingTCPServer((address, 0), handle)  # type: ignore[arg-type]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.servers.append(server)
        return int(server.socket.getsockname()[1])


@pytest.fixture
def answers() -> Iterator[Answers]:
    found = Answers()
    yield found
    for server in found.servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("begin", [b"HTTP/1.0 200 OK\r\nX-Slow: ", b"HTTP/1.0 200 OK\r\n\r\n"], ids=["header", "body"])
def test_host_that_answers_byte_after_byte_counts_as_lost(
    tmp_path: pathlib.Path, serve_slowly: Callable[[str, bytes], int], begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acme, "ANSWER_SECONDS", 0.2)
    host = Host(tmp_path / "host", SECOND, (FIRST, SECOND), serve_slowly(FIRST, begin))
    pair = issue(*NAMES)
    host.certbot_obtains(pair)
    # otherwise it would wait for the first host
    assert host.run()["trouble"] == ""
    assert host.serves == pair[0]


def test_obtained_certificate_serves_with_its_key(alone: Host) -> None:
    chain, key = issue(*NAMES)
    alone.certbot_obtains((chain, key))
    assert [alone.run()["trouble"] for _ in range(2)] == ["", ""]
    assert alone.serves == chain
    folder = alone.root / "ssl/links"
    assert (folder / "privkey.pem").read_text() == key
    assert oct((folder / "privkey.pem").stat().st_mode) == "0o100600"
    assert not (alone.root / "ssl/.links-self-signed").exists()
    # the second run had nothing to do, and a single host shares no key
    assert alone.reloads == 1
    assert not (alone.root / "state/bundle").exists()


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            "Certbot failed to authenticate some domains (authenticator: webroot). The Certificate Authority reported "
            "these problems:\n  Domain: links.example.org\n  Type:   dns\n  Detail: no A record found\n\nHint: x",
            "links.example.org (dns): no A record found",
        ),
        (
            "Saving debug log to /x\nAn unexpected error occurred:\nError creating new order :: too many certificates\n"
            "Ask for help or search for solutions. See the logfile /x",
            "Error creating new order :: too many certificates",
        ),
        ("a\x1b[31mred", "a [31mred"),
        ("", "certbot failed without a message"),
    ],
)
def test_failure_keeps_the_serving_certificate_and_reports_the_cause(alone: Host, words: str, cause: str) -> None:
    pair = issue(*NAMES)
    alone.certbot_obtains(pair)
    alone.run()
    alone.certbot_fails(words)
    report = alone.run(force=True)
    assert report["trouble"] == cause
    assert report["issued"]
    assert report["directory"] == "https://ca.example/dir"
    assert alone.serves == pair[0]


def test_first_failure_keeps_the_self_signed_certificate(alone: Host) -> None:
    report = alone.run()
    assert (report["issued"], report["trouble"]) == (False, "nothing was asked for")
    assert os.readlink(alone.root / "ssl/links") == ".links-self-signed"


def test_certificate_that_nginx_refuses_is_reverted(alone: Host) -> None:
    first, second = issue(*NAMES), issue(*NAMES, start=0)
    alone.certbot_obtains(first)
    alone.run()
    alone.certbot_obtains(second)
    alone.program("systemctl", 'case $1 in reload) echo "no" >&2; exit 1 ;; esac')
    assert "nginx.service rejects the new certificate" in alone.run()["trouble"]
    assert alone.serves == first[0]
    # the next run tries again
    alone.program("systemctl", "exit 0")
    assert alone.run()["trouble"] == ""
    assert alone.serves == second[0]


def test_interrupted_reload_is_repeated(alone: Host) -> None:
    alone.certbot_obtains(issue(*NAMES))
    alone.run()
    (alone.root / "state/loaded").unlink()
    alone.run()
    assert alone.reloads == 2


@pytest.mark.parametrize("changed", [{"directory": "https://other.example/dir"}, {"names": NAMES[:1]}], ids=str)
def test_changed_directory_or_names_are_requested_immediately(tmp_path: pathlib.Path, changed: dict[str, Any]) -> None:
    # also if another host obtained the certificate, so that this host's certbot doesn't know it
    host = Host(tmp_path / "one", FIRST, (FIRST, SECOND), 80)
    acme.deploy(host.settings, acme.Pair(*issue(*NAMES)))
    new = issue(*changed.get("names", NAMES))
    host.certbot_obtains(new)
    assert host.run(**changed)["trouble"] == ""
    assert host.serves == new[0]


def test_changed_profile_is_requested_immediately(alone: Host) -> None:
    alone.certbot_obtains(issue(*NAMES))
    alone.run()
    alone.run(profile="shortlived")
    alone.run(profile="shortlived")
    assert ["--force-renewal" in line for line in alone.certbot_calls] == [False, True, False]


def test_one_host_obtains_and_the_other_copies(tmp_path: pathlib.Path, serve_bundle: Callable[..., int]) -> None:
    port = serve_bundle(FIRST, tmp_path / "first/state/bundle", 0)
    first, second = (
        Host(tmp_path / name, own, (FIRST, SECOND), port) for name, own in (("first", FIRST), ("second", SECOND))
    )
    # the first host answers, but has no certificate yet
    assert second.run()["trouble"] == f"{FIRST}, which has to obtain it, doesn't have it yet"
    chain, key = issue(*NAMES)
    first.certbot_obtains((chain, key))
    assert first.run()["trouble"] == ""
    assert second.run()["trouble"] == ""
    assert second.serves == chain
    assert (second.root / "ssl/links/privkey.pem").read_text() == key
    assert second.certbot_calls == []
    bundle = (tmp_path / "first/state/bundle").read_text()
    assert "PRIVATE KEY" not in bundle
    # an unchanged certificate causes no reload and no new bundle
    first.run()
    assert (tmp_path / "first/state/bundle").read_text() == bundle
    assert (first.reloads, second.reloads) == (1, 1)


@pytest.mark.parametrize(("end", "obtains"), [(60, False), (0.3, True)], ids=["not due", "due"])
def test_second_host_obtains_if_the_first_is_lost_and_renewal_is_due(
    tmp_path: pathlib.Path, end: float, obtains: bool
) -> None:
    host = Host(tmp_path / "second", SECOND, (FIRST, SECOND), 1)
    acme.deploy(host.settings, acme.Pair(*issue(*NAMES, end=end)))
    new = issue(*NAMES, start=0)
    host.certbot_obtains(new)
    host.run()
    assert bool(host.certbot_calls) is obtains
    assert (host.serves == new[0]) is obtains


def test_second_host_obtains_if_the_first_lets_the_certificate_expire(
    tmp_path: pathlib.Path, serve_bundle: Callable[..., int]
) -> None:
    port = serve_bundle(FIRST, tmp_path / "nothing", 0)
    host = Host(tmp_path / "second", SECOND, (FIRST, SECOND), port)
    acme.deploy(host.settings, acme.Pair(*issue(*NAMES, start=-30, end=9)))
    new = issue(*NAMES, start=0)
    host.certbot_obtains(new)
    host.run()
    assert host.serves == new[0]


@pytest.mark.parametrize("kind", ["another key", "another directory", "other names", "ended", "rubbish", "endless"])
def test_bundle_of_another_host_is_verified(
    tmp_path: pathlib.Path, serve_bundle: Callable[..., int], kind: str
) -> None:
    bundle = tmp_path / "bundle"
    port = serve_bundle(FIRST, bundle, 0)
    host = Host(tmp_path / "second", SECOND, (FIRST, SECOND), port)
    pair = issue(*NAMES[:1]) if kind == "other names" else issue(*NAMES, end=-0.5 if kind == "ended" else 60)
    bundle_content = {
        "directory": "https://evil.example" if kind == "another directory" else host.settings.directory,
        "chain": pair[0],
        "key": issue(*NAMES)[1] if kind == "another key" else pair[1],
    }
    text = acme.Fernet(KEY).encrypt(json.dumps(bundle_content).encode())
    bundle.write_bytes({"rubbish": b"rubbish", "endless": b"A" * 2**20}.get(kind, text))
    assert host.run()["issued"] is False
    assert os.readlink(host.root / "ssl/links") == ".links-self-signed"


def certificate_with_invalid_names() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=60))
        .add_extension(x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"rubbish"), critical=False)
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builder.sign(key, hashes.SHA256()).public_bytes(pem).decode(), private.decode()


@pytest.mark.parametrize("kind", ["deep", "invalid names", "no HTTP", "endless headers", "redirect"])
def test_compromised_host_does_not_keep_others_from_renewing(
    tmp_path: pathlib.Path, kind: str, answers: Answers
) -> None:
    target = answers.start(FIRST, b"")
    chain, key = certificate_with_invalid_names()
    content = {"directory": "https://ca.example/dir", "chain": chain, "key": key}
    text = "[" * 100_000 if kind == "deep" else json.dumps(content)
    found = f"HTTP/1.0 302 Found\r\nLocation: http://{FIRST}:{target}/\r\n\r\n".encode()
    bundle = b"HTTP/1.0 200 OK\r\n\r\n" + acme.Fernet(KEY).encrypt(text.encode())
    headers = b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"
    answer = {"no HTTP": b"rubbish\r\n", "endless headers": headers, "redirect": found}.get(kind, bundle)
    # the other host has no precedence over this one
    host = Host(tmp_path / "host", SECOND, (SECOND, FIRST), answers.start(FIRST, answer))
    pair = issue(*NAMES)
    host.certbot_obtains(pair)
    assert host.run()["trouble"] == ""
    assert host.serves == pair[0]
    assert len(answers.asked) == 1
    assert target not in answers.asked


def test_account_unknown_to_the_authority_is_recreated(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path / "one", FIRST, (FIRST,), 1)
    account = pathlib.Path(host.settings.lineages, "accounts/ca.example/dir/abc/private_key.json")
    account.parent.mkdir(parents=True)
    account.write_text("{}")
    host.certbot_obtains(issue(*NAMES))
    obtains = (host.root / "bin/certbot").read_text().partition("\n")[2]
    unknown = "echo 'Account https://ca.example/my-account/1 not found.'; exit 1"
    host.program("certbot", f'if [ -e {account} ]; then echo "$@" >> {host.root}/certbot.log; {unknown}; fi\n{obtains}')
    assert host.run()["trouble"] == ""
    assert len(host.certbot_calls) == 2
    assert not account.exists()


def test_account_is_kept_after_other_failures(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path / "one", FIRST, (FIRST,), 1)
    account = pathlib.Path(host.settings.lineages, "accounts/ca.example/dir/abc/private_key.json")
    account.parent.mkdir(parents=True)
    account.write_text("{}")
    host.certbot_fails("too many certificates already issued")
    assert "too many" in host.run()["trouble"]
    assert (len(host.certbot_calls), account.exists()) == (1, True)
