"""Who can use Redis, what it stores, and which settings are refused."""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.support.certificate import issue

PASSWORD = "correct horse battery"
REMOTE = {"redis_server_listen_addresses": ["127.0.0.1", "10.0.0.31"], "redis_server_password": PASSWORD}

TLS = {"redis_server_tls": "required", "redis_server_certificate": "/etc/ssl/redis"}


def rendered(role: Any, **given: Any) -> str:
    return str(role.render("etc/redis/redis.conf.j2", **given))


def test_queue_persists_everything_and_evicts_nothing(load_role: Callable[[str], Any]) -> None:
    text = rendered(load_role("redis_server"))
    assert "appendonly yes" in text
    assert "maxmemory-policy noeviction" in text


def test_cache_evicts_and_persists_nothing(load_role: Callable[[str], Any]) -> None:
    text = rendered(load_role("redis_server"), redis_server_purpose="cache")
    assert "appendonly no" in text
    assert 'save ""' in text
    assert "maxmemory-policy allkeys-lru" in text


@pytest.mark.parametrize(("memory", "bound"), [(128, 64), (8192, 2048)])
def test_memory_follows_the_host(load_role: Callable[[str], Any], memory: int, bound: int) -> None:
    assert f"maxmemory {bound}mb" in rendered(load_role("redis_server"), ansible_facts={"memtotal_mb": memory})


def test_applications_on_one_host_share_no_file_and_no_unit(load_role: Callable[[str], Any]) -> None:
    role = load_role("redis_server")
    names = [name for name in role.load("vars/main.yml") if name.endswith(("_unit", "_file", "_drop_in"))]
    assert len(names) == 5
    names += [f"__redis_server_{what}" for what in ("certificate", "key", "socket", "loader_password_path")]
    for name in names:
        assert role.value(name, redis_server_name="links") != role.value(name, redis_server_name="shop")


def test_password_is_in_no_file(load_role: Callable[[str], Any]) -> None:
    users = load_role("redis_server").render("etc/redis/users.conf.j2", **REMOTE)
    assert PASSWORD not in users + rendered(load_role("redis_server"), **REMOTE)
    assert hashlib.sha256(PASSWORD.encode()).hexdigest() in users


@pytest.mark.parametrize(
    ("kind", "purpose", "expected"),
    [("kvm", "queue", True), ("kvm", "cache", False), ("lxc", "queue", False), ("container", "queue", False)],
)
def test_overcommit_is_set_only_for_queues_on_virtual_machines(
    load_role: Callable[[str], Any], kind: str, purpose: str, expected: bool
) -> None:
    facts = {"virtualization_role": "guest", "virtualization_type": kind}
    given = {"ansible_facts": facts, "redis_server_purpose": purpose}
    assert load_role("redis_server").value("redis_server_overcommit", **given) is expected


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["::1"], ["10.1.2.3"], ["172.31.0.1"], ["192.168.0.9"], ["100.64.0.1"], ["fd00::5"]]
)
def test_private_addresses_are_accepted(load_role: Callable[[str], Any], addresses: list[str]) -> None:
    given = {"redis_server_listen_addresses": addresses, "redis_server_password": PASSWORD}
    assert load_role("redis_server").refusals(**given) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"redis_server_password": ""},
        {"redis_server_password": "short"},
        {"redis_server_listen_addresses": []},
        {"redis_server_listen_addresses": ["0.0.0.0"]},
        {"redis_server_listen_addresses": ["*"]},
        {"redis_server_listen_addresses": ["::"]},
        {"redis_server_listen_addresses": ["203.0.113.9"]},
        {"redis_server_listen_addresses": ["172.32.0.1"]},
        {"redis_server_listen_addresses": ["10.0.0.1 0.0.0.0"]},
        {"redis_server_listen_addresses": ["data1"]},
        {"redis_server_name": "links shop"},
        {"redis_server_name": "../links"},
        {"redis_server_port": 80},
        {"redis_server_maxmemory_mb": 8192},
        {"redis_server_tls": "offered"},
        {**TLS, "redis_server_certificate": "certificates"},
        {**TLS, "redis_server_tls_port": 443},
        {**TLS, "redis_server_tls_port": 6379},
        {**TLS, "redis_server_tls_port": 70000},
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], changed: dict[str, Any]) -> None:
    role = load_role("redis_server")
    assert role.refusals(**REMOTE) == []
    messages = role.refusals(**{**REMOTE, **changed})
    assert len(messages) == 1
    assert "edge1: " in messages[0]
    assert PASSWORD not in messages[0]
    assert "short" not in messages[0]


def test_password_is_optional_on_loopback(load_role: Callable[[str], Any]) -> None:
    assert load_role("redis_server").refusals() == []


@pytest.fixture
def server(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> Iterator[Callable[..., str]]:
    """Starts a real Redis with the role's files; yields a function that sends it commands."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    started: list[subprocess.Popen[bytes]] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    def speak(*words: str, **given: Any) -> str:
        if not started:
            role, settings = (
                load_role("redis_server"),
                {"redis_server_port": port, "redis_server_name": "links", **given},
            )
            users, file = tmp_path / "users.conf", tmp_path / "redis.conf"
            users.write_text(role.render("etc/redis/users.conf.j2", **settings))
            text = rendered(role, **settings).replace("/etc/redis/redis-links.users.conf", str(users))
            text = text.replace("/run/redis-links", str(tmp_path)).replace("/var/lib/redis-links", str(tmp_path))
            file.write_text(text)
            started.append(subprocess.Popen([program, str(file)], stdout=(tmp_path / "log").open("wb")))
        login = ["--user", "links", "-a", given["redis_server_password"]] if "redis_server_password" in given else []
        for _ in range(600):
            command = ["redis-cli", "-p", str(port), "--no-auth-warning", *login, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if "Could not connect" not in done.stdout + done.stderr:
                return (done.stdout + done.stderr).strip()
            assert started[0].poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((tmp_path / "log").read_text())

    yield speak
    for process in started:
        process.terminate()
        process.wait()


def test_user_can_use_everything_except_administration(server: Callable[..., str]) -> None:
    given = {"redis_server_password": PASSWORD}
    assert server("SET", "a", "1", **given) == "OK"
    for command in ("INFO server", "XADD s * k v", "EVAL return(1) 0", "PUBLISH c m"):
        assert "NOPERM" not in server(*command.split(), **given)
    for words in (
        "CONFIG SET dir /",
        "MODULE LOAD /x.so",
        "REPLICAOF 10.0.0.1 6379",
        "MIGRATE 10.0.0.1 6379 a 0 10",
        "SHUTDOWN",
        "DEBUG SLEEP 0",
        "ACL LIST",
    ):
        refusals = ("NOPERM", f"ERR {words.split()[0]} command not allowed")
        assert server(*words.split(), **given).startswith(refusals), words


def test_password_is_required(server: Callable[..., str]) -> None:
    server("PING", redis_server_password=PASSWORD)
    assert server("GET", "a").startswith("NOAUTH")
    assert "WRONGPASS" in server("GET", "a", redis_server_password="wrong" * 4)


def test_local_user_needs_no_password_if_none_is_set(server: Callable[..., str]) -> None:
    assert server("SET", "a", "1") == "OK"
    assert server("CONFIG", "GET", "dir").startswith("NOPERM")


def test_tls_port_accompanies_or_replaces_the_plain_port(load_role: Callable[[str], Any]) -> None:
    def settings(tls: str) -> dict[str, str]:
        text = rendered(load_role("redis_server"), **{**TLS, "redis_server_tls": tls})
        lines = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: value for name, _, value in lines}

    assert settings("disabled")["port"] == "6379"
    assert "tls-port" not in settings("disabled")
    assert (settings("offered")["port"], settings("offered")["tls-port"]) == ("6379", "6380")
    assert (settings("required")["port"], settings("required")["tls-port"]) == ("0", "6380")
    assert settings("required")["tls-protocols"] == '"TLSv1.2 TLSv1.3"'


@pytest.mark.parametrize(
    ("peers", "refused"),
    [
        (["0 0 10.0.0.31:6379 10.0.0.21:44012", "0 0 [::ffff:10.0.0.31]:6379 [::ffff:10.0.0.22]:44012"], True),
        (["0 0 [fd00::31]:6379 [fd00::21]:44012"], True),
        (["0 0 127.0.0.1:6379 127.0.0.1:44012", "0 0 [::1]:6379 [::1]:44012"], False),
        ([], False),
    ],
)
def test_clients_without_tls_are_not_cut_off(load_role: Callable[[str], Any], peers: list[str], refused: bool) -> None:
    messages = load_role("redis_server").refusals(**REMOTE, **TLS, __redis_server_plain={"stdout_lines": peers})
    assert bool(messages) is refused
    named = [word for word in ("10.0.0.21, 10.0.0.22 are", "fd00::21 is") if word in "".join(messages)]
    assert bool(named) is refused


@pytest.fixture
def encrypted(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> Iterator[Callable[..., Any]]:
    """Starts a real Redis that only accepts TLS; yields a function that sends it commands by its unix socket."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    role = load_role("redis_server")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = {
        **TLS,
        "redis_server_tls_port": port,
        "redis_server_name": "links",
        "redis_server_password": PASSWORD,
        "__redis_server_loader_read": {"content": base64.b64encode(b"loader\n").decode()},
    }
    (tmp_path / "users.conf").write_text(role.render("etc/redis/users.conf.j2", **settings))
    text = rendered(role, **settings).replace("/etc/redis/redis-links.users.conf", str(tmp_path / "users.conf"))
    for folder in ("/run/redis-links", "/var/lib/redis-links", "/etc/redis/tls-links"):
        text = text.replace(folder, str(tmp_path))
    (tmp_path / "redis.conf").write_text(text)
    install_certificate(tmp_path)
    process = subprocess.Popen(["redis-server", str(tmp_path / "redis.conf")], stdout=(tmp_path / "log").open("wb"))

    def speak(user: str, password: str, *words: str) -> str:
        command = ["redis-cli", "-s", str(tmp_path / "redis.sock"), "--user", user, *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "REDISCLI_AUTH": password}
        )
        return (done.stdout + done.stderr).strip()

    end = time.monotonic() + 60
    while "Could not connect" in speak("links", PASSWORD, "PING"):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    yield lambda *words: port if not words else speak(*words)
    process.terminate()
    process.wait()


def install_certificate(folder: pathlib.Path) -> None:
    """Install a new certificate and key, as the role does."""
    certificate, key = issue("127.0.0.1")
    (folder / "fullchain.pem").write_text(certificate)
    (folder / "privkey.pem").write_text(key)


def test_renewed_certificate_is_loaded_without_a_restart(
    load_role: Callable[[str], Any], encrypted: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    program = load_role("redis_server").value("__redis_server_compare")

    def served() -> int:
        words = [sys.executable, "-Ic", program, "127.0.0.1", str(encrypted()), str(tmp_path / "fullchain.pem")]
        return subprocess.run(words, check=False).returncode

    started = encrypted("links", PASSWORD, "INFO", "server")
    assert served() == 0
    install_certificate(tmp_path)
    assert served() == 3
    files = ("tls-cert-file", str(tmp_path / "fullchain.pem"), "tls-key-file", str(tmp_path / "privkey.pem"))
    assert encrypted("baton.certificates", "loader", "CONFIG", "SET", *files) == "OK"
    assert served() == 0
    run = [line for line in started.splitlines() if line.startswith("run_id")]
    assert run[0] in encrypted("links", PASSWORD, "INFO", "server")


def test_certificate_loader_can_do_nothing_else(encrypted: Callable[..., Any]) -> None:
    for words in (("GET", "a"), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("SHUTDOWN",), ("FLUSHALL",)):
        assert encrypted("baton.certificates", "loader", *words).startswith("NOPERM"), words
    # the loader can't redirect where Redis writes its files
    assert "protected config" in encrypted("baton.certificates", "loader", "CONFIG", "SET", "dir", "/")
    assert encrypted("links", PASSWORD, "CONFIG", "SET", "maxmemory", "1").startswith("NOPERM")
