"""Prometheus metrics of all workers, in prometheus_client's multiprocess mode, across reloads and crashes of workers.

That mode keeps each process's counters in files of its own, which outlive the process and accumulate with each reload
(client_python#275). Here a file belongs to a slot instead: a worker takes the lowest free slot and continues from the
values of its previous owner. Totals therefore never decrease, the number of files is the largest number of processes
that ever ran at the same time, and an application reads them as prometheus_client documents.

A slot is held by a kernel lock (flock), which is released when its process ends, however it ends. Two masters, such as
a service and its bridge on the same socket, may therefore share a directory.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from typing import Any

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's
SIZE = 1 << 16  # bytes of a new file of prometheus_client
COUNTS = ["counter", "histogram", "summary"]
GAUGES = [f"gauge_{live}{mode}" for live in ("", "live") for mode in ("all", "min", "max", "sum", "mostrecent")]
_LOCK = re.compile(r"(worker\d+)\.lock")
_held: list[int] = []  # descriptors whose locks this process keeps until it exits


def prepare(directory: str, log: Any) -> None:
    """Makes prometheus_client keep this worker's metrics in a slot of `directory`. Call it before the application
    imports prometheus_client.

    Errors are only logged: a worker serves without metrics.
    """
    os.environ.pop(DIRECTORY_VARIABLE, None)
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
        slot = take_slot(directory)
        os.environ[DIRECTORY_VARIABLE] = directory
        _use_slot(directory, slot)
    except (ImportError, OSError) as error:
        os.environ.pop(DIRECTORY_VARIABLE, None)
        what = "the application has no prometheus_client" if isinstance(error, ImportError) else str(error)
        log.error("This worker's metrics are missing from handover_metrics_directory: %s", what)


def take_slot(directory: str) -> str:
    """Takes the lowest free slot for this process until it exits, and returns its name. Raises OSError."""
    for number in itertools.count():
        slot = f"worker{number}"
        if (descriptor := _lock(directory, slot)) is not None:
            _held.append(descriptor)
            # prometheus_client would create them empty, and its readers fail on an empty file
            for kind in COUNTS:
                if not os.path.exists(f"{directory}/{kind}_{slot}.db"):
                    _write_empty(directory, kind, slot)
            for kind in GAUGES:
                _write_empty(directory, kind, slot)
            return slot
    raise AssertionError


def clear_gauges(directory: str) -> None:
    """Clears the gauges of processes that have exited: unlike a counter, a gauge describes a running process.

    No file is removed, as a reader may be reading all of them. A process that tries to take a slot during this time
    finds it locked and takes another one. Raises OSError.
    """
    for slot in [found[1] for name in os.listdir(directory) if (found := _LOCK.fullmatch(name))]:
        if (descriptor := _lock(directory, slot)) is None:
            continue
        try:
            for kind in GAUGES:
                if not _is_empty(f"{directory}/{kind}_{slot}.db"):
                    _write_empty(directory, kind, slot)
        finally:
            os.close(descriptor)


def _is_empty(path: str) -> bool:
    """Whether the file holds no values, or is missing, as after a process that was killed while it took its slot."""
    try:
        with open(path, "rb") as file:
            return not any(file.read(4))  # the number of bytes in use
    except FileNotFoundError:
        return True


def _write_empty(directory: str, kind: str, slot: str) -> None:
    """Atomically replaces a slot's file by one without values. The caller holds the slot."""
    scratch = f"{directory}/{slot}.new"
    with open(scratch, "wb") as file:
        file.truncate(SIZE)
    os.replace(scratch, f"{directory}/{kind}_{slot}.db")


def _lock(directory: str, slot: str) -> int | None:
    """A descriptor that holds the slot; None if another one holds it. Raises OSError."""
    # not inherited by programs, but by forks, which keep the slot locked for as long as they run
    descriptor = os.open(f"{directory}/{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _use_slot(directory: str, slot: str) -> None:
    """Makes prometheus_client name this process's files after its slot. Raises ImportError."""
    from prometheus_client import values

    owner = os.getpid()

    def identifier() -> str:
        nonlocal owner, slot
        if os.getpid() != owner:
            # a process that the application forked
            owner = os.getpid()
            try:
                slot = take_slot(directory)
            except OSError:
                slot = f"{slot}-{owner}"
        return slot

    values.ValueClass = values.MultiProcessValue(identifier)  # type: ignore[no-untyped-call]
