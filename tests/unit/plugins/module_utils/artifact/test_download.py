"""Downloading the files of a lock: into their own folder, without other servers' credentials, whatever answers."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import pathlib
import socket
import threading
import zipfile
from collections.abc import Iterator

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import requirements, wheels
from ansible_collections.baton.web.plugins.module_utils.artifact.download import Remote, fetch_all
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.artifact.toolchain import Tools
from ansible_collections.baton.web.plugins.module_utils.host import disk
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

CONTENT = b"a file"


@contextlib.contextmanager
def server() -> Iterator[tuple[int, list[str]]]:
    """A server's port, and the credentials that it received."""
    given: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(self.headers.get("Authorization", ""))
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port, given
        serving.shutdown()


@pytest.fixture(autouse=True)
def _isolated(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "name", ["..%2f..%2f..%2fhome%2f.bashrc", "%2e%2e", "", "a%00b", "a%0ab", "a" * 300, "a%1b[2J"]
)
def test_file_name_that_leaves_its_folder_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    with server() as (port, _):
        wanted = Remote(f"http://127.0.0.1:{port}/{name}")
        with pytest.raises(BatonError, match="doesn't end with a valid file name"):
            fetch_all([wanted], Tools(tmp_path / "cache"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_hash_with_a_path_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "requirements.txt").write_text("a @ https://elsewhere/a.whl --hash=sha256:../../../home\n")
    with pytest.raises(BatonError, match="has an invalid hash"):
        requirements.read(tmp_path / "requirements.txt")


def test_index_credentials_are_sent_only_to_its_server(tmp_path: pathlib.Path) -> None:
    with server() as (index, at_index), server() as (other, elsewhere):
        tools = Tools(tmp_path / "cache", index_url=f"http://user:secret@127.0.0.1:{index}/simple")
        fetch_all([Remote(f"http://127.0.0.1:{port}/a.whl") for port in (index, other)], tools)
        assert at_index == ["Basic dXNlcjpzZWNyZXQ="]
        assert elsewhere == [""]


def test_netrc_over_plain_http_is_only_used_for_an_index(tmp_path: pathlib.Path) -> None:
    netrc = tmp_path / "home/.netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    with server() as (index, at_index), server() as (other, elsewhere):
        tools = Tools(tmp_path / "cache", index_url=f"http://127.0.0.1:{index}/simple")
        fetch_all([Remote(f"http://127.0.0.1:{port}/a.whl") for port in (index, other)], tools)
        assert at_index == ["Basic dXNlcjpzZWNyZXQ="]
        assert elsewhere == [""]


def test_download_must_fit_on_the_disk(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RESERVE_BYTES", 2**60)
    with server() as (port, _), pytest.raises(BatonError, match=r"a\.whl can't be fetched .*than the room on the disk"):
        fetch_all([Remote(f"http://127.0.0.1:{port}/a.whl")], Tools(tmp_path / "cache"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "answer", [b"hello\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 70000, b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200]
)
def test_invalid_answer_is_reported(tmp_path: pathlib.Path, answer: bytes) -> None:
    def respond() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=respond)
        thread.start()
        wanted = Remote(f"http://127.0.0.1:{listener.getsockname()[1]}/a.whl")
        with pytest.raises(BatonError, match=r"a.whl can't be fetched from 127.0.0.1"):
            fetch_all([wanted], Tools(tmp_path / "cache"))
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/a.whl", "http://[/a.whl", "http://\N{SNAKE}\u3002\u3002/a.whl"])
def test_invalid_address_is_reported(tmp_path: pathlib.Path, url: str) -> None:
    with pytest.raises(BatonError, match=r"can't be fetched|a valid file name"):
        fetch_all([Remote(url)], Tools(tmp_path / "cache"))


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"PK\5\6" + b"\0" * 18])
def test_invalid_wheel_is_reported(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    path.write_bytes(content)
    wheel = wheels.Wheel(path, hashlib.sha256(content).hexdigest())
    with pytest.raises(BatonError, match=r"a-1-py3-none-any.whl (can't be read as a wheel|is not a wheel)"):
        wheels.pack_set(Target(11, "x86_64", (2, 36)), [wheel], [], Tools(tmp_path / "cache"), "key")


def test_encrypted_wheel_is_reported(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a-1.dist-info/METADATA", "Name: a\nVersion: 1\n")
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(BatonError, match=r"can't be read as a wheel .*encrypted"):
        wheels.metadata(path)


def test_invalid_wheel_name_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BatonError, match=r"x-none-any.whl is not a valid wheel name"):
        wheels.Wheel(tmp_path / "x-none-any.whl", "")
