"""How many workers an app server runs."""

from __future__ import annotations


def count(
    cores: int, memory_mb: int, *, workers: int, workload: str, worker_memory_mb: int, memory_percent: int
) -> int:
    """The number as the settings say it or, with 0 workers, as the host's cores are of use and its memory has room."""
    if workers:
        return workers
    by_cores = 2 * cores + 1 if workload == "io" else cores
    by_memory = int(memory_mb * memory_percent / 100 / worker_memory_mb)
    return max(1, min(by_cores, by_memory))
