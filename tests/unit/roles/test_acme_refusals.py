"""What the operator is told when an ACME authority refuses a request: the real certbot, with the role's configuration,
asks an authority that answers as Boulder does. molecule/acme has a whole authority, which knows no rate limit.
"""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.change import status, status_report

from tests.unit.roles.test_acme_certificate import NAMES, Host, acme, alone, signed  # noqa: F401

ERROR = "urn:ietf:params:acme:error:"
RATE_LIMITED = (
    "too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after "
    "2026-12-01 12:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/#new-certificates-per-exact-set-of-identifiers"
)
UNKNOWN_KEY = "The 'kid' of the external account binding is unknown"


@dataclasses.dataclass
class Authority:
    """An ACME authority that refuses what `refuses` has, by the resource; it verifies no signature."""

    url: str
    refuses: dict[str, tuple[int, str, str]] = dataclasses.field(default_factory=dict)
    bound_to: list[str] = dataclasses.field(default_factory=list)  # the ids of external accounts that it was given


@pytest.fixture
def authority() -> Iterator[Authority]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, code: int, content: dict[str, Any], kind: str = "json", **headers: str) -> None:
            body = json.dumps(content).encode()
            self.send_response(code)
            headers |= {"Replay-Nonce": "bm9uY2U", "Content-Type": f"application/{kind}"}
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer(200, {name: f"{found.url}/{name}" for name in ("newNonce", "newAccount", "newOrder")})

        def do_HEAD(self) -> None:
            self.answer(200, {})

        def do_POST(self) -> None:
            resource = self.path.rpartition("/")[2]
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            payload = json.loads(decoded(message["payload"]))
            if binding := payload.get("externalAccountBinding"):
                found.bound_to.append(json.loads(decoded(binding["protected"]))["kid"])
            if resource in found.refuses:
                code, kind, detail = found.refuses[resource]
                self.answer(code, {"type": ERROR + kind, "detail": detail, "status": code}, "problem+json")
            else:
                self.answer(201, {"status": "valid"}, Location=f"{found.url}/account")

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Authority(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def decoded(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


@pytest.fixture(scope="module")
def certbot(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The certbot that the role installs."""
    folder = tmp_path_factory.mktemp("certbot")
    lock = pathlib.Path(acme.__file__).with_name("certbot.txt")
    uv = str(pathlib.Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    options = ["--quiet", "--no-deps", "--require-hashes", f"--python={folder}/bin/python", f"--requirement={lock}"]
    subprocess.run([uv, "pip", "install", *options], check=True)
    return folder / "bin/certbot"


@pytest.mark.parametrize(
    ("resource", "answer", "cause"),
    [
        ("newOrder", (429, "rateLimited", RATE_LIMITED), RATE_LIMITED),
        ("newAccount", (403, "unauthorized", UNKNOWN_KEY), UNKNOWN_KEY),
        ("newOrder", (403, "rejectedIdentifier", "Policy forbids issuing"), "Policy forbids issuing"),
        # an authority behind a proxy that is overloaded
        ("newAccount", (503, "serverInternal", "The service is down for maintenance"), "The service is down"),
    ],
)
def test_refusal_is_reported_and_keeps_the_certificate(
    load_role: Callable[[str], Any],
    alone: Host,  # noqa: F811
    authority: Authority,
    certbot: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    resource: str,
    answer: tuple[int, str, str],
    cause: str,
) -> None:
    directory = f"{authority.url}/directory"
    given = {
        "tls_certificate_name": "links",
        "tls_certificate_names": list(NAMES),
        "tls_certificate_acme_directory": directory,
        "tls_certificate_acme_eab_key_id": "ours",
        "tls_certificate_acme_eab_hmac_key": "dGhlIGtleSBvZiBhIHRlc3Q",
        "__tls_certificate_acme_lineages": alone.settings.lineages,
        "__tls_certificate_acme_state": alone.settings.state,
    }
    options = load_role("tls_certificate").render("etc/acme-certificate/certbot.ini.j2", **given)
    pathlib.Path(alone.settings.options).write_text(options)
    (alone.root / "state/challenges").mkdir()
    pair = signed()
    acme.deploy(dataclasses.replace(alone.settings, directory=directory), acme.Pair(*pair))
    authority.refuses[resource] = answer
    report = alone.run(force=True, directory=directory, certbot=str(certbot))
    assert authority.bound_to == ["ours"]
    assert cause in report["trouble"]
    # the text of the journal, and that of status.yml
    assert f"No new certificate for {', '.join(NAMES)} from {directory}: " in capfd.readouterr().err
    found = {"acme": status.acme_outcome((alone.root / "state/status.json").read_bytes(), "status.json")}
    (message,) = status_report.problems("edge1", found)
    assert message.startswith(f"edge1: no new certificate for {', '.join(NAMES)} from {directory}, ")
    assert cause in message
    assert "the previous one is still in use" in message
    assert alone.serves == pair[0]
