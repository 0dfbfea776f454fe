"""Prometheus' metrics of all workers, by prometheus_client's multiprocess mode, over reloads and deaths of workers.

That mode keeps the counters of each process in files of its own, which outlive it and pile up with each reload
(client_python#275). Here a file belongs to a slot instead: a worker takes the lowest free one, and continues from the
values of the worker before it. So totals never decrease, the number of files is that of the most processes ever running
at once, and an application reads them as prometheus_client's documentation says.

A slot is held by a lock of the kernel's, which ends with its process, however that ends. So two masters, as of a
service and of the one that takes its place on the same socket, may share a directory.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
from typing import Any

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's
SIZE = 1 << 16  # bytes of a new file of prometheus_client's
COUNTS = ["counter", "histogram", "summary"]
GAUGES = [f"gauge_{live}{mode}" for live in ("", "live") for mode in ("all", "min", "max", "sum", "mostrecent")]
_LOCK = re.compile(r"(worker\d+)\.lock")
_held: list[int] = []  # descriptors whose locks this process keeps until it ends


def prepare(directory: str, log: Any) -> None:
    """Has this worker count in a slot of `directory`, from when the application imports prometheus_client.

    A worker serves also when it can't count: what went wrong is logged.
    """
    os.environ.pop(DIRECTORY_VARIABLE, None)
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
        slot = take_slot(directory)
        os.environ[DIRECTORY_VARIABLE] = directory
        _count_in(directory, slot)
    except (ImportError, OSError) as error:
        os.environ.pop(DIRECTORY_VARIABLE, None)
        what = "the application has no prometheus_client" if isinstance(error, ImportError) else str(error)
        log.error("This worker's metrics are not in handover_metrics_directory: %s", what)


def take_slot(directory: str) -> str:
    """The name of the lowest slot that no living process has; it is this process' until it ends. Raises OSError."""
    for number in itertools.count():
        slot = f"worker{number}"
        if (descriptor := _lock(directory, slot)) is not None:
            _held.append(descriptor)
            # prometheus_client would make them empty, and its readers fail on a file in that moment
            for kind in COUNTS:
                if not os.path.exists(f"{directory}/{kind}_{slot}.db"):
                    _make_blank(directory, kind, slot)
            for kind in GAUGES:
                _make_blank(directory, kind, slot)
            return slot
    raise AssertionError


def forget_gauges(directory: str) -> None:
    """Empties the gauges of processes that have ended: unlike a counter, a gauge says how its process is.

    Raises OSError. No file goes missing: somebody may be reading them all. A slot that a new process asks for at this
    very moment looks taken, and it takes another one.
    """
    for slot in [found[1] for name in os.listdir(directory) if (found := _LOCK.fullmatch(name))]:
        if (descriptor := _lock(directory, slot)) is None:
            continue
        try:
            for kind in GAUGES:
                if not _is_blank(f"{directory}/{kind}_{slot}.db"):
                    _make_blank(directory, kind, slot)
        finally:
            os.close(descriptor)


def _is_blank(path: str) -> bool:
    """Whether it holds nothing, or isn't there, as after a process that was killed while it took its slot."""
    try:
        with open(path, "rb") as file:
            return not any(file.read(4))  # how much of it is used
    except FileNotFoundError:
        return True


def _make_blank(directory: str, kind: str, slot: str) -> None:
    """Makes, or replaces, a file by one that holds nothing. The caller has the slot."""
    scratch = f"{directory}/{slot}.new"
    with open(scratch, "wb") as file:
        file.truncate(SIZE)
    os.replace(scratch, f"{directory}/{kind}_{slot}.db")


def _lock(directory: str, slot: str) -> int | None:
    """A descriptor that holds the slot; None when another one does. Raises OSError."""
    # no program inherits it; a fork does, and keeps the slot taken for as long as it lives
    descriptor = os.open(f"{directory}/{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def _count_in(directory: str, slot: str) -> None:
    """Names this process' files by its slot. Raises ImportError."""
    from prometheus_client import values

    owner = os.getpid()

    def identifier() -> str:
        nonlocal owner, slot
        if os.getpid() != owner:
            # one that the application forked
            owner = os.getpid()
            try:
                slot = take_slot(directory)
            except OSError:
                slot = f"{slot}-{owner}"
        return slot

    values.ValueClass = values.MultiProcessValue(identifier)  # type: ignore[no-untyped-call]
