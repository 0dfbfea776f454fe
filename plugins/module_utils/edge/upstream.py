"""The upstream servers of a site: which of them get requests, and which connections to them are open."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

_SERVER = re.compile(r"^( *server (\S+) max_fails=0(?: max_conns=\d+)?)( down)?;$", re.MULTILINE)
# suffixes of upstreams with the same servers: for requests without the limit of concurrency, and for the health page
OTHERS = (".uncounted", ".health")
_CONNECTION = re.compile(r"\s(?P<local>\S+:\d+)\s+(?P<peer>\S+:\d+)\s+users:\((?P<users>.*)\)")
MASTER = pathlib.Path("/run/nginx.pid")  # has the pid of nginx's master process
SHUTTING_DOWN = "shutting down"  # in the title of a worker process of an older configuration


class UpstreamError(Exception):
    """The servers can't be drained or enabled. The message has cause and fix."""


@dataclasses.dataclass(frozen=True)
class Connection:
    """An open TCP connection of a worker process."""

    pid: int
    peer: str  # address:port


def addresses(hosts: Iterable[str], known: Mapping[str, Mapping[str, Any]], port: int) -> list[str]:
    """Return app servers' addresses as in nginx's configuration and log. `known`: the hosts' variables."""
    return [f"{known[host]['baton_address']}:{port}" for host in hosts]


def servers(text: str, site: str) -> dict[str, bool]:
    """Return the servers of a site's upstream in its configuration file, and whether each is drained."""
    return {address: bool(down) for _, address, down in _SERVER.findall(_block(text, site))}


def at(known: Iterable[str], hosts: Collection[str]) -> list[str]:
    """Return the servers at the hosts' addresses, on any port: the setting of the port may be yet to be applied."""
    return [server for server in known if server.rpartition(":")[0] in hosts]


def marked(text: str, site: str, drained: Collection[str], back: Collection[str]) -> str:
    """Return the file with hosts `drained`, by address, and `back` enabled; others stay. Raises UpstreamError."""
    known = servers(text, site)
    if unknown := sorted(host for host in {*drained, *back} if not at(known, [host])):
        raise UpstreamError(
            f"{', '.join(unknown)} can't be drained or enabled: the site {site} only has the servers "
            f"{', '.join(known)}. If the inventory has changed, run site.yml."
        )
    enabled = at(known, back)
    down = {server for server, was in known.items() if was and server not in enabled} | set(at(known, drained))
    if drained and not set(known) - down:
        raise UpstreamError(
            f"{', '.join(drained)} can't be drained: no server of the site {site} would remain. "
            "Keep at least one; playbooks/status.yml shows which are drained."
        )
    for name in (site, *(f"{site}{other}" for other in OTHERS)):
        if block := _found(text, name):
            new = _SERVER.sub(lambda line: f"{line[1]}{' down' if line[2] in down else ''};", block)
            text = text.replace(block, new, 1)
    return text


def _block(text: str, site: str) -> str:
    block = _found(text, site)
    if not block:
        raise UpstreamError(f"The site {site} has no upstream in its configuration. Run site.yml.")
    return block


def _found(text: str, upstream: str) -> str:
    found = re.search(rf"^upstream {re.escape(upstream)} {{\n.*?^}}$", text, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def peers(addresses: Collection[str]) -> set[str]:
    """Return servers as in a list of connections, with names resolved to addresses."""
    found = set(addresses)
    for address in addresses:
        host, _, port = address.rpartition(":")
        with contextlib.suppress(OSError, ValueError):
            for *_, target in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM):
                found.add(f"[{target[0]}]:{port}" if ":" in str(target[0]) else f"{target[0]}:{port}")
    return found


def workers() -> dict[int, bool]:
    """Return nginx's worker processes by pid, and whether each is shutting down."""
    found = {}
    with contextlib.suppress(OSError, ValueError):
        master = int(MASTER.read_text())
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # after the name, which may contain anything: state, parent
                parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
                title = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                # any process may have such a title
                if parent == master and title.startswith("nginx: worker process"):
                    found[int(process.name)] = SHUTTING_DOWN in title
    return found


def connections() -> list[Connection]:
    """Return the open TCP connections of nginx's processes."""
    listing = subprocess.run(
        ["ss", "-Htnp", "state", "established"], check=True, text=True, capture_output=True, stdin=subprocess.DEVNULL
    )
    return list(_parse(listing.stdout))


def _parse(listing: str) -> Iterator[Connection]:
    for line in listing.splitlines():
        found = _CONNECTION.search(line)
        if found and (pids := re.findall(r'"nginx",pid=(\d+)', found["users"])):
            yield Connection(int(pids[0]), found["peer"])


def busy(open_: Collection[Connection], old: Collection[int], known: set[str], drained: set[str]) -> int:
    """Return how many requests the drained servers may still have to answer.

    These are requests that were passed to one, and requests that a worker process of the older configuration hasn't
    passed on yet, such as an upload that it is still receiving: it might choose a drained server.
    """
    return sum(connection.peer in drained for connection in open_) + unsent(open_, old, known)


def unsent(open_: Collection[Connection], old: Collection[int], known: set[str]) -> int:
    """Return how many requests the worker processes of the older configuration may still have to forward."""
    of_old = [connection for connection in open_ if connection.pid in old]
    passed_on = sum(connection.peer in known for connection in of_old)
    return max(0, len(of_old) - 2 * passed_on)


def wait_until_idle(known: Collection[str], drained: Collection[str], timeout: float) -> int:
    """Wait until the drained servers have no requests. Returns how many they still have after `timeout` seconds."""
    all_of_them, those = peers(known), peers(drained)
    return _wait_until_none(lambda open_, old: busy(open_, old, all_of_them, those), timeout)


def wait_until_passed_on(known: Collection[str], timeout: float) -> int:
    """Wait until the former worker processes have forwarded their requests; return how many are left in the end."""
    all_of_them = peers(known)
    return _wait_until_none(lambda open_, old: unsent(open_, old, all_of_them), timeout)


def _wait_until_none(count: Callable[[list[Connection], set[int]], int], timeout: float) -> int:
    """Wait until `count`, given the connections and the former worker processes, is 0; return its last value."""
    deadline = time.monotonic() + timeout
    while True:
        old = {pid for pid, shutting_down in workers().items() if shutting_down}
        left = count(connections(), old)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
