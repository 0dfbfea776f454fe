"""Whether hosts and database have the capacity for two releases of an application at once, as during a change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..app import workers

RESERVED_CONNECTIONS = 3  # for superusers: PostgreSQL's default of superuser_reserved_connections
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50, "E": 2**60}


@dataclasses.dataclass(frozen=True)
class Server:
    """An app server; 0 for values that aren't known."""

    name: str
    workers: int
    worker_memory_mb: int
    memory_mb: int
    web_memory_mb: int  # memory limit of the workers, if it is a share of the host's memory
    connections: int  # database connections of one worker
    processes: Mapping[str, Mapping[str, Any]]  # result of process_settings.on_host
    schedules: int


def memory_problem(server: Server) -> str:
    """Return why a host has too little memory for two generations of an application; empty if it has enough.

    Also empty if the host's memory or the number of its workers isn't known.
    """
    own = workers.at_change(server.workers) * server.worker_memory_mb
    others = {name: one for name, one in _bounded(server).items() if one[0]}
    rest = server.memory_mb - sum(count * size for count, size in others.values())
    limit = server.web_memory_mb or server.memory_mb
    if not server.memory_mb or not server.workers or own <= min(rest, limit):
        return ""
    parts = [
        f"{server.workers} workers of {server.worker_memory_mb} MiB (app_service_worker_memory_mb), twice during a "
        "handover",
        *(f"{count} {name} processes of {size} MiB (its memory_max)" for name, (count, size) in others.items()),
    ]
    share = f", of which the workers may use {server.web_memory_mb} (app_service_memory_max)"
    has = f"The host has {server.memory_mb} MiB{share if server.web_memory_mb else ''}"
    return (
        f"{server.name}: a change needs up to {own + server.memory_mb - rest} MiB of memory: {'; '.join(parts)}. "
        f"{has}. {', '.join(_memory_fixes(server, own, rest, limit))}, or use a larger host. Two generations of "
        "workers run during each change: neither app_service_rehearsal: false nor deploy_drain makes it need less."
    )


def _memory_fixes(server: Server, own: int, rest: int, limit: int) -> list[str]:
    """Return the settings that can each lower the need. `own`: MiB of the workers; `rest`: MiB that types leave."""
    fewer = min(rest, limit) // workers.at_change(1) // max(1, server.worker_memory_mb)
    fixes = [
        f"Run fewer workers (app_service_workers: {fewer})" if fewer > 0 else "Run fewer processes on it",
        "set app_service_worker_memory_mb to what a worker needs (playbooks/status.yml shows it)",
    ]
    if own > limit:  # no matter what the other types need
        return [*fixes, *(["raise app_service_memory_max"] if own <= rest else [])]
    bounded = [name for name, (count, _) in _bounded(server).items() if count]
    overlapping = [name for name in bounded if server.processes[name]["strategy"] == "overlap"]
    if overlapping:
        names = ", ".join(overlapping)
        fixes.append(f"set strategy: replace for {names} (app_processes), whose old processes then end first")
    return [*fixes, f"lower the count or memory_max of {', '.join(bounded)}"] if bounded else fixes


def _bounded(server: Server) -> dict[str, tuple[int, int]]:
    """Return the background process types with a memory limit: the number during a change, and MiB of each."""
    return {
        name: (_at_change(one), size)
        for name, one in server.processes.items()
        if (size := megabytes(str(one["memory_max"]), server.memory_mb))
    }


def megabytes(limit: str, of: int) -> int:
    """Return a systemd memory limit in whole MiB; 0 for none. `of`: MiB that a percentage refers to."""
    if limit in ("", "infinity"):
        return 0
    if limit.endswith("%"):
        return int(of * float(limit[:-1]) / 100)
    unit = limit[-1] if limit[-1].isalpha() else ""
    return math.ceil(float(limit.removesuffix(unit)) * _UNITS[unit] / 2**20)


def _at_change(process: Mapping[str, Any]) -> int:
    """Return how many processes of a type run during a change, when the rehearsed one has already stopped."""
    return int(process["count"]) * (workers.GENERATIONS if process["strategy"] == "overlap" else 1)


def connection_problem(application: str, servers: Sequence[Server], host: str, limit: int, running: int = 0) -> str:
    """Return why a database server allows too few connections for a change; empty if it allows enough.

    `limit`: max_connections in the inventory. `running`: that of the running server; 0 if it isn't known or is about
    to change. Unknown values of app servers aren't counted.
    """
    parts = _connections(servers)
    needed = sum(count for _, count in parts)
    if needed <= min(limit, running or limit) - RESERVED_CONNECTIONS:
        return ""
    if needed <= limit - RESERVED_CONNECTIONS:
        number, setting, fix = running, "max_connections of the running server", "Run site.yml, which restarts it"
    else:
        number, setting = limit, "postgresql_server_max_connections"
        fix = f"Raise postgresql_server_max_connections to {needed + RESERVED_CONNECTIONS} (site.yml restarts it)"
    return (
        f"{host}: {application} may open {needed} connections to PostgreSQL during a change: "
        f"{'; '.join(words for words, _ in parts)}. The server allows {max(0, number - RESERVED_CONNECTIONS)} "
        f"({setting}: {number}, {RESERVED_CONNECTIONS} of them reserved for superusers). {fix}, lower the "
        "application's pools and app_database_connections, or run fewer workers (app_service_workers) or processes "
        "(app_processes)."
    )


def _connections(servers: Sequence[Server]) -> list[tuple[str, int]]:
    """Return what may open connections during a change, as text with the hosts, and how many."""
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
        (f"{words} on {', '.join(name for name, _ in hosts)}", sum(count for _, count in hosts))
        for words, hosts in found.items()
    ]
