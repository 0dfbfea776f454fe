"""nginx on this machine with a role's site, for requests from addresses of the loopback network."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import http.client
import http.server
import json
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .certificate import issue
from .wait import PATIENCE, until

NAME = "links.example.org"
EDGE, CLIENT, PEER, UPSTREAM = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
SITE: dict[str, Any] = {
    "nginx_site_name": "links",
    "nginx_site_server_names": [NAME],
    "nginx_site_ipv6": False,
    "nginx_server_ipv6": False,
    "nginx_server_worker_processes": 1,
    "nginx_server_worker_connections": 200,
}


@dataclasses.dataclass
class Server:
    """A server that records requests. `answer`: returns status and text for a path."""

    answer: Callable[[str], tuple[int, str]] = lambda path: (200, path)
    requests: list[tuple[str, dict[str, str]]] = dataclasses.field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """The paths that it was asked for."""
        return [path for path, _ in self.requests]

    @contextlib.contextmanager
    def listening(self, address: str, port: int) -> Iterator[int]:
        """Serve during a block; yield the port. `port`: 0 for any."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, text = server.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        with http.server.ThreadingHTTPServer((address, port), Handler) as listening:
            thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
            thread.start()
            try:
                yield listening.server_address[1]
            finally:
                listening.shutdown()
                thread.join()


@dataclasses.dataclass(frozen=True)
class Edge:
    """A running nginx, its application and another edge of the site."""

    http_port: int
    https_port: int
    folder: pathlib.Path
    application: Server
    peer: Server

    def ask(
        self, path: str, scheme: str = "https", *, client: str = CLIENT, body: bytes = b"", **headers: str
    ) -> tuple[int, str]:
        """Status and text of a request from an address; a POST if there is a body."""
        connection = http.client.HTTPConnection(EDGE)
        connection.sock = self._connect(scheme, client)
        with contextlib.closing(connection):
            connection.request("POST" if body else "GET", path, body or None, {"Host": NAME, **headers})
            response = connection.getresponse()
            return response.status, response.read().decode("latin-1")

    def send(self, text: bytes, scheme: str = "https") -> list[int]:
        """Send bytes on a new connection; return the status of each answer."""
        with self._connect(scheme, CLIENT) as connection:
            connection.sendall(text)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", answer, re.MULTILINE)]

    def _connect(self, scheme: str, client: str) -> socket.socket:
        port = self.https_port if scheme == "https" else self.http_port
        plain = socket.create_connection((EDGE, port), PATIENCE, (client, 0))
        if scheme == "http":
            return plain
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain, server_hostname=NAME)

    def clients(self, number: int) -> list[str]:
        """The clients of this number of requests, as in the access log."""
        log = self.folder / "links-access.log"
        until(lambda: log.exists() and log.read_text().count("\n") >= number, "nginx doesn't log the requests")
        return [json.loads(line)["client"] for line in log.read_text().splitlines()]

    def challenge(self, token: str, scheme: str = "https", **given: Any) -> tuple[int, str]:
        """Status and text of a request for an ACME challenge."""
        return self.ask(f"/.well-known/acme-challenge/{token}", scheme, **given)


def program() -> str:
    """The path of nginx; skips the test without it."""
    found = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        pytest.skip("nginx is not installed")
    return found


@contextlib.contextmanager
def running(
    load_role: Callable[[str], Any], folder: pathlib.Path, change: Callable[[str], str] = str, **given: Any
) -> Iterator[Edge]:
    """Run nginx with the role's site during a block. `change`: changes the site's text."""
    nginx = program()
    application, peer = Server(), Server(answer=lambda _: (404, ""))
    with contextlib.ExitStack() as stack:
        upstream = f"{UPSTREAM}:{stack.enter_context(application.listening(UPSTREAM, 0))}"
        # another edge listens on the same port
        http_port = stack.enter_context(peer.listening(PEER, 0))
        with contextlib.closing(socket.create_server((EDGE, 0))) as free:
            https_port = free.getsockname()[1]
        for kind, text in issue(NAME, authority=True)._asdict().items():
            (folder / f"{kind}.pem").write_text(text)
        version = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=True).stderr
        settings = {
            **SITE,
            "nginx_site_upstreams": [upstream],
            "nginx_site_workers": {upstream: 1},
            "nginx_site_http_port": http_port,
            "nginx_site_https_port": https_port,
            "nginx_server_http_port": http_port,
            "nginx_server_https_port": https_port,
            "nginx_site_certificate": str(folder / "certificate.pem"),
            "nginx_site_certificate_key": str(folder / "key.pem"),
            "__nginx_site_about": {"rc": 0, "stderr": version},
            "__nginx_server_about": {"rc": 0, "stderr": f"{version}built with OpenSSL 3.0.15 3 Sep 2024"},
            **given,
        }
        _write(load_role, folder, settings, change)
        command = [nginx, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]
        tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        process = subprocess.Popen([*command, "-g", "daemon off;"])
        stack.callback(process.wait)
        stack.callback(process.terminate)
        until(lambda: _accepts(https_port) or process.poll() is not None, "nginx doesn't accept connections")
        yield Edge(http_port, https_port, folder, application, peer)


def _write(
    load_role: Callable[[str], Any], folder: pathlib.Path, settings: dict[str, Any], change: Callable[[str], str]
) -> None:
    for name in ("modules-enabled", "conf.d", "sites-enabled", "scratch", "state"):
        (folder / name).mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "conf.d/scratch.conf").write_text(
        "".join(f"{kind}_temp_path {folder}/scratch/{kind};\n" for kind in kinds)
    )
    texts = {
        "nginx.conf": load_role("nginx_server").render("etc/nginx/nginx.conf.j2", **settings),
        "sites-enabled/links.conf": change(
            load_role("nginx_site").render("etc/nginx/sites-enabled/site.conf.j2", **settings)
        ),
    }
    for path, text in texts.items():
        text = text.replace("user www-data;", f"user {getpass.getuser()};").replace("/run/nginx.pid", f"{folder}/pid")
        text = text.replace("/var/log/nginx", str(folder)).replace("/var/lib/nginx-site/links", f"{folder}/state")
        text = text.replace("/etc/nginx/client-ca/links.pem", f"{folder}/certificate.pem")
        for name in ("modules-enabled", "conf.d", "sites-enabled"):
            text = text.replace(f"/etc/nginx/{name}", str(folder / name))
        for port in (settings["nginx_site_http_port"], settings["nginx_site_https_port"]):
            text = text.replace(f"listen {port}", f"listen {EDGE}:{port}")
        (folder / path).write_text(text)


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((EDGE, port)):
        return True
    return False
