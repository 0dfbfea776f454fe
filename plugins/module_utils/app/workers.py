"""The number of workers of an app server."""

from __future__ import annotations

# generations of processes during a change
GENERATIONS = 2
# share of the host's memory that the web unit may use by default (app_service_memory_max)
SHARE = 0.85


def count(
    cores: int, memory_mb: int, *, workers: int, workload: str, worker_memory_mb: int, memory_percent: int
) -> int:
    """Return the number in the settings or, for 0, as many as the host's cores and memory allow.

    The workers get their share of the memory, and during a change two generations fit into the unit's memory limit.
    """
    if workers:
        return workers
    by_cores = 2 * cores + 1 if workload == "io" else cores
    by_memory = int(min(memory_mb * memory_percent / 100, memory_mb * SHARE / GENERATIONS) / worker_memory_mb)
    return max(1, min(by_cores, by_memory))


def at_change(workers: int) -> int:
    """Return the maximum number of concurrent workers: old ones serve until all new ones are ready.

    A rehearsal's worker isn't counted, because it stops before.
    """
    return GENERATIONS * workers
