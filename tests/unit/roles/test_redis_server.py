"""Who may use Redis, what it keeps, and which Redis is refused."""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

PASSWORD = "correct horse battery"
REMOTE = {"redis_server_listen_addresses": ["127.0.0.1", "10.0.0.31"], "redis_server_password": PASSWORD}


def rendered(role: Any, **given: Any) -> str:
    return str(role.render("etc/redis/redis.conf.j2", **given))


def test_a_queue_keeps_everything_and_evicts_nothing(load_role: Callable[[str], Any]) -> None:
    text = rendered(load_role("redis_server"))
    assert "appendonly yes" in text
    assert "maxmemory-policy noeviction" in text


def test_a_cache_evicts_and_keeps_nothing(load_role: Callable[[str], Any]) -> None:
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
    for name in names:
        assert role.value(name, redis_server_name="links") != role.value(name, redis_server_name="shop")


def test_the_password_is_in_no_file(load_role: Callable[[str], Any]) -> None:
    users = load_role("redis_server").render("etc/redis/users.conf.j2", **REMOTE)
    assert PASSWORD not in users + rendered(load_role("redis_server"), **REMOTE)
    assert hashlib.sha256(PASSWORD.encode()).hexdigest() in users


@pytest.mark.parametrize(
    ("kind", "purpose", "expected"),
    [("kvm", "queue", True), ("kvm", "cache", False), ("lxc", "queue", False), ("container", "queue", False)],
)
def test_overcommit_is_set_where_it_helps_and_can_be_set(
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
    "wrong",
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
    ],
    ids=str,
)
def test_preflight_refuses(load_role: Callable[[str], Any], wrong: dict[str, Any]) -> None:
    role = load_role("redis_server")
    assert role.refusals(**REMOTE) == []
    messages = role.refusals(**{**REMOTE, **wrong})
    assert len(messages) == 1
    assert "edge1: " in messages[0]
    assert PASSWORD not in messages[0]
    assert "short" not in messages[0]


def test_without_a_password_it_serves_its_own_host(load_role: Callable[[str], Any]) -> None:
    assert load_role("redis_server").refusals() == []


@pytest.fixture
def server(load_role: Callable[[str], Any], tmp_path: pathlib.Path) -> Iterator[Callable[..., str]]:
    """Starts a real Redis on the role's files; gives the program that speaks to it."""
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


def test_a_user_with_the_password_may_do_all_but_administer(server: Callable[..., str]) -> None:
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


def test_nobody_does_anything_without_the_password(server: Callable[..., str]) -> None:
    server("PING", redis_server_password=PASSWORD)
    assert server("GET", "a").startswith("NOAUTH")
    assert "WRONGPASS" in server("GET", "a", redis_server_password="wrong" * 4)


def test_without_a_password_its_own_host_may_use_it(server: Callable[..., str]) -> None:
    assert server("SET", "a", "1") == "OK"
    assert server("CONFIG", "GET", "dir").startswith("NOPERM")
