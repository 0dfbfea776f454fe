"""How many workers an app server runs."""

from __future__ import annotations

# of processes, while one release follows another
GENERATIONS = 2
# of a host's memory that the web unit may take by default (app_service_memory_max)
SHARE = 0.85


def count(
    cores: int, memory_mb: int, *, workers: int, workload: str, worker_memory_mb: int, memory_percent: int
) -> int:
    """The number as the settings say it or, with 0 workers, as the host's cores are of use and its memory has room.

    There is room for their share of the memory and, while a release follows another, for two generations in the unit's.
    """
    if workers:
        return workers
    by_cores = 2 * cores + 1 if workload == "io" else cores
    by_memory = int(min(memory_mb * memory_percent / 100, memory_mb * SHARE / GENERATIONS) / worker_memory_mb)
    return max(1, min(by_cores, by_memory))


def at_change(workers: int) -> int:
    """The most workers that are there at once: the old ones serve until all new ones are ready.

    A rehearsal's one has ended before.
    """
    return GENERATIONS * workers
