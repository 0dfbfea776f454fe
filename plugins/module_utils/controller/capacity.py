"""Whether hosts and database carry an application while one release follows another, and both are there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..app import workers

# PostgreSQL keeps so many for superusers (superuser_reserved_connections), which an application isn't
RESERVED_CONNECTIONS = 3
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}


@dataclasses.dataclass(frozen=True)
class Server:
    """An app server, as far as it is known: 0 for what isn't."""

    name: str
    workers: int
    worker_memory_mb: int
    memory_mb: int
    web_memory_mb: int  # that the workers may take, where that is a share of the host's
    connections: int  # of one worker
    processes: Mapping[str, Mapping[str, Any]]  # of process_settings.on_host
    schedules: int


def memory_problem(server: Server) -> str:
    """Why a host's memory doesn't carry two generations of an application; empty when it does, or isn't known."""
    own = workers.at_change(server.workers) * server.worker_memory_mb
    others = {name: one for name, one in _bounded(server).items() if one[0]}
    rest = server.memory_mb - sum(count * size for count, size in others.values())
    room = min(rest, server.web_memory_mb or rest)
    if not server.memory_mb or not server.workers or own <= room:
        return ""
    parts = [
        f"{server.workers} workers of {server.worker_memory_mb} MiB (app_service_worker_memory_mb), and as many again "
        "while new ones take over",
        *(f"{count} {name} processes of {size} MiB (its memory_max)" for name, (count, size) in others.items()),
    ]
    fewer = room // workers.at_change(1) // max(1, server.worker_memory_mb)
    ways = [
        f"Run fewer workers (app_service_workers: {fewer})" if fewer > 0 else "Run fewer processes on it",
        "set app_service_worker_memory_mb to what a worker takes (playbooks/status.yml shows it)",
        *(["have process types replace one another (strategy: replace), or lower their memory_max"] if others else []),
    ]
    share = f", of which its workers may take {server.web_memory_mb} (app_service_memory_max)"
    has = f"The host has {server.memory_mb} MiB{share if server.web_memory_mb else ''}"
    return (
        f"{server.name}: a change needs up to {own + server.memory_mb - rest} MiB of memory: {'; '.join(parts)}. "
        f"{has}. {', '.join(ways)}, or use a larger host."
    )


def _bounded(server: Server) -> dict[str, tuple[int, int]]:
    """The background processes at a change whose memory is bounded: how many, and MiB of each."""
    return {
        name: (_at_change(one), size)
        for name, one in server.processes.items()
        if (size := megabytes(str(one["memory_max"]), server.memory_mb))
    }


def megabytes(limit: str, of: int) -> int:
    """A limit as systemd writes it in whole MiB, `of` those that a share is of; 0 for none."""
    if limit in ("", "infinity"):
        return 0
    if limit.endswith("%"):
        return int(of * float(limit[:-1]) / 100)
    unit = limit[-1] if limit[-1].isalpha() else ""
    return math.ceil(float(limit.removesuffix(unit)) * _UNITS[unit] / 2**20)


def _at_change(process: Mapping[str, Any]) -> int:
    """How many processes of a type are there while a release follows another; a rehearsed one is gone by then."""
    return int(process["count"]) * (workers.GENERATIONS if process["strategy"] == "overlap" else 1)


def connection_problem(application: str, servers: Sequence[Server], host: str, limit: int, running: int = 0) -> str:
    """Why a database server takes fewer connections than the application may open at a change; empty when it doesn't.

    `limit` is its max_connections as the inventory has it, `running` as the running server has it; 0 where that isn't
    known or won't stay. What isn't known of the app servers isn't counted.
    """
    parts = _connections(servers)
    needed = sum(count for _, count in parts)
    if needed <= min(limit, running or limit) - RESERVED_CONNECTIONS:
        return ""
    if needed <= limit - RESERVED_CONNECTIONS:
        number, setting, way = running, "max_connections of the running server", "Run site.yml, which restarts it"
    else:
        number, setting = limit, "postgresql_server_max_connections"
        way = f"Raise postgresql_server_max_connections to {needed + RESERVED_CONNECTIONS} (site.yml restarts it)"
    return (
        f"{host}: {application} may open {needed} connections to PostgreSQL while one release follows another: "
        f"{'; '.join(words for words, _ in parts)}. It takes {max(0, number - RESERVED_CONNECTIONS)} "
        f"({setting}: {number}, {RESERVED_CONNECTIONS} of them kept for superusers). {way}, lower the application's "
        "pools and app_database_connections, or run fewer workers (app_service_workers) or processes (app_processes)."
    )


def _connections(servers: Sequence[Server]) -> list[tuple[str, int]]:
    """What may open connections at a change, in words with its hosts, and how many."""
    found: dict[str, list[tuple[str, int]]] = {}
    for server in servers:
        web = f"{workers.GENERATIONS} x {server.workers} workers with {server.connections} each"
        kinds = [(f"{web} (app_database_connections)", workers.at_change(server.workers) * server.connections)]
        for name, one in server.processes.items():
            count, each = _at_change(one), int(one["database_connections"])
            kinds.append((f"{count} {name} processes with {each} each (its database_connections)", count * each))
        kinds.append((f"{server.schedules} of scheduled commands", server.schedules))
        for words, count in kinds:
            if count:
                found.setdefault(words, []).append((server.name, count))
    return [
        (f"{words} on {', '.join(name for name, _ in having)}", sum(count for _, count in having))
        for words, having in found.items()
    ]
