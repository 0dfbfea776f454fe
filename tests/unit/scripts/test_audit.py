"""scripts/audit, with the real pip-audit and a local service that implements OSV's query API."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

PROJECT = pathlib.Path(__file__).parents[3]
LOCK = "starlette==1.3.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{0}\nidna==3.10 \\\n    --hash=sha256:{0}\n"
# as the real service answers (https://google.github.io/osv.dev/post-v1-query/)
ADVISORY = {
    "id": "PYSEC-2026-249",
    "details": "request.form() ignores its limits.",
    "aliases": ["CVE-2026-54283", "GHSA-82w8-qh3p-5jfq"],
    "modified": "2026-06-27T11:15:06.800792374Z",
    "published": "2026-06-22T18:16:46.943Z",
    "affected": [
        {
            "package": {"name": "starlette", "ecosystem": "PyPI", "purl": "pkg:pypi/starlette"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0.4.1"}, {"fixed": "1.3.1"}]}],
            "versions": ["1.2.0", "1.3.0"],
        }
    ],
    "schema_version": "1.7.3",
}


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> Callable[[dict[str, str]], pathlib.Path]:
    def make(files: dict[str, str]) -> pathlib.Path:
        for name, text in files.items():
            path = tmp_path / "checkout" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format("0" * 64) if name.endswith(".txt") else text)
        subprocess.run(["git", "init", "--quiet"], cwd=tmp_path / "checkout", check=True)
        subprocess.run(["git", "add", "."], cwd=tmp_path / "checkout", check=True)
        return tmp_path / "checkout"

    return make


class Service:
    """A service that knows one advisory and records its queries."""

    def __init__(self) -> None:
        self.queries: list[tuple[str, str]] = []
        self.status = 200
        self.url = ""


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert query["package"]["ecosystem"] == "PyPI"
            package = (query["package"]["name"], query["version"])
            state.queries.append(package)
            body = json.dumps(
                {"vulns": [ADVISORY]} if package in {("starlette", "1.2.0"), ("starlette", "1.3.0")} else {}
            )
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}/v1/query"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield state
        server.shutdown()
        thread.join()


def audit(folder: pathlib.Path, url: str, mode: str = "") -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    words = [sys.executable, str(PROJECT / "scripts/audit"), f"--service={url}", f"--folder={folder}"]
    done = subprocess.run(words, env={**environment, "BATON_AUDIT": mode}, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_vulnerability_is_reported_with_its_fix_and_its_locks(
    checkout: Callable[[dict[str, str]], pathlib.Path], service: Service
) -> None:
    # the vulnerable package is for another platform, in two locks; another lock has another version
    older = "starlette==1.2.0 --hash=sha256:{0}\n"
    files = {"requirements.txt": LOCK, "app/requirements.txt": LOCK, "b.txt": older, "notes.txt": "starlette==0.1\n"}
    old = {"handover/requirements-test-oldest.txt": "starlette==1.1.0 --hash=sha256:{0}\n"}
    code, output = audit(checkout(files | old), service.url)
    assert code == 1
    ids = "PYSEC-2026-249 = CVE-2026-54283 = GHSA-82w8-qh3p-5jfq, fixed in 1.3.1"
    assert f"starlette 1.3.0 in app/requirements.txt, requirements.txt: {ids}" in output.splitlines()
    assert f"starlette 1.2.0 in b.txt: {ids}" in output.splitlines()
    assert "ok" not in output.split()
    assert sorted(service.queries) == [("idna", "3.10"), ("starlette", "1.2.0"), ("starlette", "1.3.0")]


def test_locks_without_vulnerabilities_pass(
    checkout: Callable[[dict[str, str]], pathlib.Path], service: Service
) -> None:
    code, output = audit(checkout({"requirements.txt": "idna==3.10 --hash=sha256:{0}\n"}), service.url, "required")
    assert (code, output.split(":")[0]) == (0, "ok")
    assert "1 packages of 1 locks; not handover/requirements-test-oldest.txt" in output


ACCEPTED = '[[accepted]]\nid = "{}"\npackage = "{}"\nreason = "no forms here"\nuntil = {}\n'


@pytest.mark.parametrize(
    ("entry", "code", "message"),
    [
        (ACCEPTED.format("CVE-2026-54283", "starlette", "9999-01-01"), 0, "ok"),
        (ACCEPTED.format("CVE-2026-54283", "starlette", "2026-01-01"), 1, "it was accepted until 2026-01-01"),
        (ACCEPTED.format("CVE-2026-54283", "idna", "9999-01-01"), 1, "of idna is accepted, but no lock has it"),
        (ACCEPTED.format("CVE-2026-54283", "starlette", '"soon"'), 1, "until as a date"),
        (
            '[[accepted]]\nid = "CVE-2026-54283"\npackage = "starlette"\nuntil = 9999-01-01\n',
            1,
            "needs id, package, reason",
        ),
    ],
)
def test_accepted_finding_needs_a_reason_and_a_date(
    checkout: Callable[[dict[str, str]], pathlib.Path], service: Service, entry: str, code: int, message: str
) -> None:
    found = audit(checkout({"requirements.txt": LOCK, ".config/audit.toml": entry}), service.url)
    assert found[0] == code
    assert message in found[1]


@pytest.mark.parametrize(("mode", "code"), [("", 0), ("required", 1)])
def test_unreachable_service_is_never_reported_as_ok(
    checkout: Callable[[dict[str, str]], pathlib.Path], service: Service, mode: str, code: int
) -> None:
    folder = checkout({"requirements.txt": LOCK})
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    refused = audit(folder, f"http://127.0.0.1:{port}/v1/query", mode)
    service.status = 503
    failing = audit(folder, service.url, mode)
    for found in (refused, failing):
        assert found[0] == code
        assert found[1].startswith("not audited: http://127.0.0.1:")
        assert "ok" not in found[1].split()
    assert len(service.queries) == 1, "one try, not one for each package or lock"


def test_unresponsive_service_times_out(checkout: Callable[[dict[str, str]], pathlib.Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, output = audit(
            checkout({"requirements.txt": LOCK}), f"http://127.0.0.1:{silent.getsockname()[1]}/v1/query"
        )
    assert code == 0
    assert output.startswith("not audited: ")


def test_misspelt_mode_is_refused(checkout: Callable[[dict[str, str]], pathlib.Path], service: Service) -> None:
    code, output = audit(checkout({"requirements.txt": LOCK}), service.url, "require")
    assert (code, service.queries) == (1, [])
    assert 'BATON_AUDIT is "require"' in output
