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
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from tests.support import program
from tests.support.certificate import Issued, issue
from tests.support.program import write_script

PROGRAM = pathlib.Path(__file__).resolve().parents[3] / "roles/tls_certificate/files/acme_certificate.py"
NAMES = ("links.example.org", "www.example.org")
FIRST, SECOND, THIRD = "127.0.0.11", "127.0.0.12", "127.0.0.13"
KEY = "A" * 43 + "="


acme = program.load(PROGRAM, "acme_certificate")
AUTHORITY = issue(common_name="authority", authority=True)


def signed(*names: str, **given: Any) -> Issued:
    """A certificate of an authority that all hosts trust, for `NAMES` by default."""
    return issue(*(names or NAMES), **{"signer": AUTHORITY, **given})


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
            roots=(str(root / "roots.pem"),),
            environment={},
        )
        (root / "roots.pem").write_text(AUTHORITY.certificate)
        # the certificate that serves until the authority issues one
        (root / "ssl/.links-self-signed").mkdir()
        (root / "ssl/links").symlink_to(".links-self-signed")
        self.program("systemctl", f'echo "$@" >> {root}/systemctl.log')
        self.program("nginx", "exit 0")
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

    def nginx_rejects(self, pair: tuple[str, str]) -> None:
        """Let nginx reject this certificate, and record what it serves during each test."""
        (self.root / "rejected.pem").write_text(pair[0])
        self.program(
            "nginx",
            f"readlink {self.root}/ssl/links >> {self.root}/linked.log; "
            'file=$(sed -n \'s/.* ssl_certificate "\\(.*\\)";/\\1/p\' "$4"); '
            f"cmp -s $file {self.root}/rejected.pem || exit 0; "
            'echo "nginx: [emerg] $file: ee key too small" >&2; exit 1',
        )

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
        assert status == bool(
            report["trouble"] or [one for one in report["refused"] if one.startswith("the authority")]
        )
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
    pair = signed()
    host.certbot_obtains(pair)
    # otherwise it would wait for the first host
    assert host.run()["trouble"] == ""
    assert host.serves == pair[0]


def test_obtained_certificate_serves_with_its_key(alone: Host) -> None:
    chain, key = signed()
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
    pair = signed()
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


def test_certificate_whose_reload_fails_is_reverted(alone: Host, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = signed(), signed(start=0)
    alone.certbot_obtains(first)
    alone.run()
    alone.certbot_obtains(second)
    alone.program("systemctl", 'case $1 in reload) echo "no" >&2; exit 1 ;; esac')
    # what nginx has logged; without it, what systemctl says
    alone.program(
        "journalctl",
        f'echo "$@" >> {alone.root}/journalctl.log; [ "$1" != --sync ] || exit 0\n'
        "printf 'nginx: [emerg] no such file\\nnginx: test failed\\n'",
    )
    refused = "nginx.service doesn't reload with the new certificate: "
    assert alone.run()["trouble"] == f"{refused}nginx: [emerg] no such file; nginx: test failed"
    assert capsys.readouterr().err.endswith("nginx: test failed\n")
    synced, read = (alone.root / "journalctl.log").read_text().splitlines()
    assert (synced, read.split()[-1]) == ("--sync", "_SYSTEMD_UNIT=nginx.service")
    for broken in ("exit 1", "exit 0"):
        alone.program("journalctl", broken)
        assert alone.run()["trouble"] == f"{refused}no"
    assert alone.serves == first[0]
    # the next run tries again
    alone.program("systemctl", "exit 0")
    assert alone.run()["trouble"] == ""
    assert alone.serves == second[0]


def test_interrupted_reload_is_repeated(alone: Host) -> None:
    alone.certbot_obtains(signed())
    alone.run()
    (alone.root / "state/loaded").unlink()
    alone.run()
    assert alone.reloads == 2


@pytest.mark.parametrize("changed", [{"directory": "https://other.example/dir"}, {"names": NAMES[:1]}], ids=str)
def test_changed_directory_or_names_are_requested_immediately(tmp_path: pathlib.Path, changed: dict[str, Any]) -> None:
    # also if another host obtained the certificate, so that this host's certbot doesn't know it
    host = Host(tmp_path / "one", FIRST, (FIRST, SECOND), 80)
    acme.deploy(host.settings, acme.Pair(*signed()))
    new = signed(*changed.get("names", NAMES))
    host.certbot_obtains(new)
    assert host.run(**changed)["trouble"] == ""
    assert host.serves == new[0]


def test_changed_profile_is_requested_immediately(alone: Host) -> None:
    alone.certbot_obtains(signed())
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
    chain, key = signed()
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
    acme.deploy(host.settings, acme.Pair(*signed(end=end)))
    new = signed(start=0)
    host.certbot_obtains(new)
    host.run()
    assert bool(host.certbot_calls) is obtains
    assert (host.serves == new[0]) is obtains


def test_host_that_obtained_the_certificate_asks_when_to_renew_it(
    tmp_path: pathlib.Path, serve_bundle: Callable[..., int]
) -> None:
    """Also after a failover, when a host with precedence answers again: only its certbot knows the certificate."""
    port = serve_bundle(FIRST, tmp_path / "first/state/bundle", 0)
    second = Host(tmp_path / "second", SECOND, (FIRST, SECOND), port)
    pair, renewed = signed(), signed(start=0)
    second.certbot_obtains(pair)
    second.run(force=True)
    # the first host returns, and copies the certificate
    first = Host(tmp_path / "first", FIRST, (FIRST, SECOND), port)
    acme.deploy(first.settings, acme.Pair(*pair))
    first.run()
    assert first.certbot_calls == []
    second.run()
    assert second.serves == pair[0]
    # by the authority's information, it is due
    second.certbot_obtains(renewed)
    assert second.run()["trouble"] == ""
    assert second.serves == renewed[0]
    assert ["--force-renewal" in call for call in second.certbot_calls] == [True, False, False]


def test_second_host_obtains_if_the_first_lets_the_certificate_expire(
    tmp_path: pathlib.Path, serve_bundle: Callable[..., int]
) -> None:
    port = serve_bundle(FIRST, tmp_path / "nothing", 0)
    host = Host(tmp_path / "second", SECOND, (FIRST, SECOND), port)
    acme.deploy(host.settings, acme.Pair(*signed(start=-30, end=9)))
    new = signed(start=0)
    host.certbot_obtains(new)
    host.run()
    assert host.serves == new[0]


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


SELF_SIGNED = issue(*NAMES)
STRANGER = issue(common_name="authority", authority=True)
MIDDLE = issue(common_name="middle", authority=True, signer=AUTHORITY)
LONG = signed(signer=MIDDLE)


def encrypted(content: bytes) -> bytes:
    return bytes(acme.Fernet(KEY).encrypt(content))


def bundle(pair: tuple[str, str], directory: str = "https://ca.example/dir") -> bytes:
    """What a host offers to the others."""
    return encrypted(json.dumps({"directory": directory, "chain": pair[0], "key": pair[1]}).encode())


@pytest.fixture
def second(tmp_path: pathlib.Path, answers: Answers) -> Callable[[bytes], Host]:
    """A host that gets this bundle from another one with precedence."""
    ok = b"HTTP/1.0 200 OK\r\n\r\n"
    return lambda content: Host(tmp_path / "host", SECOND, (FIRST, SECOND), answers.start(FIRST, ok + content))


MUST_NOT_BE_USED = {
    "self-signed": (bundle(SELF_SIGNED), "clients would not trust it: self-signed certificate"),
    "another authority of the same name": (bundle(signed(signer=STRANGER)), "clients would not trust it"),
    "a client's": (bundle(signed(usage=ExtendedKeyUsageOID.CLIENT_AUTH)), "clients would not trust it: "),
    "weak": (bundle(signed(rsa_bits=1024)), "clients would not trust it: "),
    "in the future": (bundle(signed(start=1)), "clients would not trust it: certificate is not yet valid"),
    "incomplete": (bundle(LONG), "clients would not trust it: unable to get local issuer certificate"),
    "disordered": (bundle((LONG[0] + AUTHORITY[0] + MIDDLE[0], LONG[1])), "isn't issued by the next one"),
    "long": (bundle((signed()[0] + AUTHORITY[0] * 8, "")), "its chain has more than 8 certificates"),
    "another key": (bundle((signed()[0], signed()[1])), "the key doesn't belong to the certificate"),
    "no key": (bundle((signed()[0], "")), "the certificate or its key can't be read"),
    "huge key": (bundle((signed()[0], "A" * 8193)), "it is too large"),
    "huge chain": (bundle((signed()[0] + "A" * 65536, "")), "it is too large"),
    "invalid names": (bundle(certificate_with_invalid_names()), "it has no readable host name"),
    "no certificate": (bundle(("", "")), "it has no readable host name"),
    "deep": (encrypted(b"[" * 100_000), "it can't be read (RecursionError)"),
    "another type": (encrypted(b"[1]"), "it can't be read (TypeError)"),
    "rubbish": (b"rubbish", "it can't be read (InvalidToken)"),
    "endless": (b"A" * 2**20, "it can't be read (InvalidToken)"),
}


@pytest.mark.parametrize(("content", "cause"), MUST_NOT_BE_USED.values(), ids=MUST_NOT_BE_USED)
def test_what_another_host_offers_is_verified(second: Callable[[bytes], Host], content: bytes, cause: str) -> None:
    host = second(content)
    # older than all of these
    current = signed(start=-40)
    acme.deploy(host.settings, acme.Pair(*current))
    report = host.run()
    (refused,) = report["refused"]
    assert refused.startswith(f"that of {FIRST}: ")
    assert cause in refused
    assert (report["trouble"], report["issued"]) == ("", True)
    assert host.serves == current[0]
    # it isn't due
    assert host.certbot_calls == []


@pytest.mark.parametrize("content", [bundle(SELF_SIGNED), b"rubbish"], ids=["self-signed", "rubbish"])
@pytest.mark.parametrize("start", [None, -30], ids=["no certificate yet", "due"])
def test_host_that_offers_unusable_certificates_has_no_precedence(
    second: Callable[[bytes], Host], content: bytes, start: float | None
) -> None:
    host, new = second(content), signed(start=0)
    if start is not None:
        acme.deploy(host.settings, acme.Pair(*signed(start=start, end=14)))
    host.certbot_obtains(new)
    report = host.run()
    assert report["trouble"] == ""
    assert report["refused"][0].startswith(f"that of {FIRST}: ")
    assert host.serves == new[0]


@pytest.mark.parametrize(
    "content",
    [
        bundle(signed(), directory="https://other.example"),
        bundle(signed(*NAMES[:1])),
        bundle(signed(*NAMES, "a.example")),
        bundle(signed(start=-9, end=-1)),
        bundle(signed(start=-50)),
    ],
    ids=["another directory", "fewer names", "more names", "expired", "older"],
)
def test_certificates_of_other_settings_and_older_ones_are_ignored(
    second: Callable[[bytes], Host], content: bytes
) -> None:
    host, current = second(content), signed(start=-40)
    acme.deploy(host.settings, acme.Pair(*current))
    report = host.run()
    assert (report["trouble"], report["refused"]) == ("", [])
    assert host.serves == current[0]


def test_only_the_parts_of_a_copied_certificate_that_clients_need_are_served(second: Callable[[bytes], Host]) -> None:
    host = second(bundle((f"comment\n{LONG[0]}comment\n{MIDDLE[0]}comment\n", LONG[1])))
    assert host.run()["refused"] == []
    assert host.serves == LONG[0] + MIDDLE[0]


def test_key_of_another_type_may_follow(second: Callable[[bytes], Host]) -> None:
    offer = signed(rsa_bits=2048)
    host = second(bundle(offer))
    acme.deploy(host.settings, acme.Pair(*signed(start=-40)))
    assert host.run()["refused"] == []
    assert host.serves == offer[0]


def test_issuer_of_the_hosts_own_certificate_is_trusted(second: Callable[[bytes], Host]) -> None:
    """So an authority that no setting names causes one request by each host, and they share one certificate later."""
    shared, own = signed(start=0, signer=MIDDLE), signed(start=-1)
    host = second(bundle(shared))
    host.certbot_obtains(own)
    (host.root / "roots.pem").write_text("")
    assert "unable to get local issuer" in host.run()["refused"][0]
    assert host.serves == own[0]
    (host.settings.lineage / "chain.pem").write_text(MIDDLE.certificate)
    assert host.run()["refused"] == []
    assert host.serves == shared[0]


@pytest.mark.parametrize("kind", ["no HTTP", "endless headers", "redirect"])
def test_compromised_host_does_not_keep_others_from_renewing(
    tmp_path: pathlib.Path, kind: str, answers: Answers
) -> None:
    target = answers.start(FIRST, b"")
    redirect = f"HTTP/1.0 302 Found\r\nLocation: http://{FIRST}:{target}/\r\n\r\n".encode()
    headers = b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"
    answer = {"no HTTP": b"rubbish\r\n", "endless headers": headers, "redirect": redirect}[kind]
    # the other host has no precedence over this one
    host = Host(tmp_path / "host", SECOND, (SECOND, FIRST), answers.start(FIRST, answer))
    pair = signed()
    host.certbot_obtains(pair)
    assert host.run()["trouble"] == ""
    assert host.serves == pair[0]
    assert len(answers.asked) == 1
    assert target not in answers.asked


@pytest.mark.parametrize("bad", [issue(*NAMES, start=0, end=9999), signed(start=0.5)], ids=["untrusted", "future"])
def test_bad_certificate_in_use_is_replaced(tmp_path: pathlib.Path, bad: tuple[str, str]) -> None:
    """An earlier version copied one without verification; or the clock was wrong."""
    host, good = Host(tmp_path / "host", SECOND, (SECOND, FIRST), 1), signed(start=-5)
    acme.deploy(host.settings, acme.Pair(*bad))
    host.certbot_obtains(good)
    report = host.run()
    assert report["refused"][0].startswith("the one in use: ")
    assert host.serves == good[0]
    assert host.run()["refused"] == []


def test_host_without_certificate_waits_only_for_a_while(
    tmp_path: pathlib.Path, serve_bundle: Callable[..., int]
) -> None:
    host = Host(tmp_path / "second", SECOND, (FIRST, SECOND), serve_bundle(FIRST, tmp_path / "nothing", 0))
    pair, status = signed(), host.root / "state/status.json"
    host.certbot_obtains(pair)
    waiting = [host.run() for _ in range(2)][1]
    assert waiting["trouble"] == f"{FIRST}, which has to obtain it, doesn't have it yet"
    assert host.certbot_calls == []
    # the first host never obtains one
    status.write_text(json.dumps({**waiting, "waits_since": time.time() - acme.WAIT_SECONDS}))
    assert host.run()["trouble"] == ""
    assert host.serves == pair[0]


@pytest.mark.parametrize("since", [1e12, "x", None, float("nan"), []], ids=str)
def test_time_of_waiting_may_be_invalid(tmp_path: pathlib.Path, serve_bundle: Callable[..., int], since: Any) -> None:
    host = Host(tmp_path / "second", SECOND, (FIRST, SECOND), serve_bundle(FIRST, tmp_path / "nothing", 0))
    host.certbot_obtains(signed())
    (host.root / "state/status.json").write_text(json.dumps({"waits_since": since}))
    # either it begins to wait, or it has waited long enough
    assert host.run()["issued"] is isinstance(since, float)


def test_certificate_that_nginx_rejects_is_never_linked(second: Callable[[bytes], Host]) -> None:
    offer, current = signed(start=0), signed(start=-40)
    host = second(bundle(offer))
    acme.deploy(host.settings, acme.Pair(*current))
    before, reloads = os.readlink(host.root / "ssl/links"), host.reloads
    host.nginx_rejects(offer)
    (refused,) = host.run()["refused"]
    assert refused.startswith(f"that of {FIRST}: nginx rejects it: {host.root}/ssl/.links-acme-")
    assert refused.endswith("ee key too small")
    assert set((host.root / "linked.log").read_text().split()) == {before}
    assert (os.readlink(host.root / "ssl/links"), host.reloads) == (before, reloads)
    assert acme.decrypt(host.settings, (host.root / "state/bundle").read_bytes())[1].chain == current[0]


@pytest.mark.parametrize(
    ("end", "age", "again"),
    [(60, 2, False), (10, 2, True), (10, 0.5, False)],
    ids=["not due", "due", "due, rejected today"],
)
def test_renewals_go_on_after_a_certificate_that_nginx_rejects(
    alone: Host, end: float, age: float, again: bool
) -> None:
    current, rejected, new = signed(start=-50, end=end), signed(start=-age), signed(start=0)
    alone.certbot_obtains(current)
    alone.run()
    alone.nginx_rejects(rejected)
    alone.certbot_obtains(rejected)
    assert alone.run(force=True)["refused"][0].startswith("the authority's: nginx rejects it: ")
    assert alone.serves == current[0]
    obtain = (alone.root / "bin/certbot").read_text().partition("\n")[2]
    alone.certbot_obtains(new)
    renewed = (alone.root / "bin/certbot").read_text().partition("\n")[2].replace("new.", "newer.")
    for name in ("new.pem", "new.key"):
        (alone.root / name).rename(alone.root / name.replace("new", "newer"))
    # for certbot, the rejected one isn't due
    alone.program("certbot", f'case "$*" in *--force-renewal) {renewed} ;; *) echo {obtain!r} > /dev/null ;; esac')
    report = alone.run()
    assert report["refused"][0].startswith("the authority's: nginx rejects it: ")
    assert (alone.serves == new[0]) is again


def test_error_of_nginx_that_is_not_the_certificates_fault_does_not_prevent_its_use(alone: Host) -> None:
    pair = signed()
    alone.program("nginx", "echo 'nginx: [emerg] no space left' >&2; exit 1")
    alone.certbot_obtains(pair)
    assert alone.run()["trouble"] == ""
    assert (alone.serves, alone.reloads) == (pair[0], 1)


def test_newest_of_several_certificates_serves(second: Callable[[bytes], Host]) -> None:
    newest, own, current = signed(start=-1), signed(start=-2), signed(start=-40)
    host = second(bundle(newest))
    acme.deploy(host.settings, acme.Pair(*current))
    host.settings.lineage.mkdir(parents=True)
    for file, content in zip(("fullchain.pem", "privkey.pem"), own, strict=True):
        (host.settings.lineage / file).write_text(content)
    host.run()
    assert host.serves == newest[0]


def test_files_of_a_rejected_certificate_are_removed(alone: Host) -> None:
    rejected = signed()
    alone.nginx_rejects(rejected)
    alone.certbot_obtains(rejected)
    assert alone.run()["issued"] is False
    assert [path.name for path in (alone.root / "ssl").glob(".*")] == [".links-self-signed"]


def test_certificate_in_use_that_nginx_rejects_is_replaced(alone: Host) -> None:
    """As by a new version of OpenSSL."""
    rejected, new = signed(), signed(start=-2)
    acme.deploy(alone.settings, acme.Pair(*rejected))
    alone.nginx_rejects(rejected)
    alone.certbot_obtains(new)
    assert "nginx rejects it" in alone.run()["refused"][0]
    assert alone.serves == new[0]


def test_authority_that_omits_a_name_is_reported(alone: Host) -> None:
    current = signed()
    alone.certbot_obtains(current)
    alone.run()
    alone.certbot_obtains(signed(NAMES[0], start=0))
    assert alone.run(force=True)["trouble"] == f"the authority's certificate isn't for {NAMES[1]}"
    assert alone.serves == current[0]


def test_certbot_that_does_not_end_is_reported(alone: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acme, "CERTBOT_SECONDS", 0.2)
    alone.program("certbot", "exec sleep 60")
    assert alone.run()["trouble"] == "certbot did not end within 0 seconds"


def test_unexpected_error_is_reported(alone: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(acme, "obtain")
    assert "'obtain' is not defined" in alone.run()["trouble"]


@pytest.mark.parametrize("file", ["state/status.json", "state/loaded", "state/bundle", "state/certbot/profile"])
def test_damaged_state_is_written_again(tmp_path: pathlib.Path, file: str) -> None:
    host, pair = Host(tmp_path / "one", FIRST, (FIRST, SECOND), 1), signed()
    host.certbot_obtains(pair)
    host.run()
    good = (host.root / file).read_bytes()
    (host.root / file).write_bytes(b"\xff\x00[")
    assert host.run()["trouble"] == ""
    assert b"\xff" not in (host.root / file).read_bytes()
    assert (file == "state/bundle") or (file == "state/status.json") or (host.root / file).read_bytes() == good


@pytest.mark.parametrize("file", ["directory", "fullchain.pem", "privkey.pem"])
def test_damaged_certificate_in_use_is_written_again(alone: Host, file: str) -> None:
    pair = signed()
    alone.certbot_obtains(pair)
    alone.run()
    (alone.root / "ssl/links" / file).write_bytes(b"\xff\x00")
    assert alone.run()["trouble"] == ""
    assert (alone.serves, (alone.root / "ssl/links/privkey.pem").read_text()) == pair
    assert (alone.root / "ssl/links/directory").read_text() == alone.settings.directory


UNUSABLE_ACCOUNT = (
    "Account https://ca.example/my-account/1 not found.",
    'Unable to validate JWS :: Account is not valid, has status "deactivated"',
    "Account has been deactivated",
    "The request message was malformed :: JWS verification error",
    "josepy.errors.DeserializationError: Deserialization error: [] is not a dictionary object",
    "Please choose an account",
)
UNUSABLE_LINEAGE = ("archive directory exists for links", "ValueError: Unable to load PEM file. See https://x")


@pytest.mark.parametrize("works", [True, False], ids=["works", "fails"])
@pytest.mark.parametrize(
    ("message", "file"),
    [
        *((message, "accounts/ca.example/dir/abc/private_key.json") for message in UNUSABLE_ACCOUNT),
        *((message, "archive/links/cert1.pem") for message in UNUSABLE_LINEAGE),
    ],
    ids=str,
)
def test_files_of_certbot_are_replaced_if_it_works_without_them(
    alone: Host, message: str, file: str, works: bool
) -> None:
    path, pair = pathlib.Path(alone.settings.lineages, file), signed()
    other = pathlib.Path(alone.settings.lineages, "other/file")
    for one in (path, other):
        one.parent.mkdir(parents=True)
        one.write_text("old")
    alone.certbot_obtains(pair)
    obtain = (alone.root / "bin/certbot").read_text().partition("\n")[2]
    log = f'echo "$@" >> {alone.root}/certbot.log'
    anew = obtain if works else f"{log}; mkdir -p {path.parent}; echo new > {path}; echo no network; exit 1"
    alone.program("certbot", f"if [ -e {path} ]; then {log}; echo '{message}'; exit 1; fi\n{anew}")
    assert alone.run()["trouble"] == ("" if works else "no network")
    assert len(alone.certbot_calls) == 2
    assert path.exists() is not works
    assert works or path.read_text() == "old"
    assert other.read_text() == "old"
    assert not (alone.root / "state/aside").exists()


def test_account_is_kept_after_other_failures(tmp_path: pathlib.Path) -> None:
    host = Host(tmp_path / "one", FIRST, (FIRST,), 1)
    account = pathlib.Path(host.settings.lineages, "accounts/ca.example/dir/abc/private_key.json")
    account.parent.mkdir(parents=True)
    account.write_text("{}")
    host.certbot_fails("too many certificates already issued")
    assert "too many" in host.run()["trouble"]
    assert (len(host.certbot_calls), account.exists()) == (1, True)
