"""The command line: the server itself, and `reload` and `status` for people and for `ExecReload=`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any

from gunicorn_handover import status

STATUS_VARIABLE = "GUNICORN_HANDOVER_STATUS"
POLL = 0.1  # seconds


def main() -> int:
    """`python -m gunicorn_handover [reload|status] ...`. Returns the exit status."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["reload"]:
        return _reload(arguments[1:])
    if arguments[:1] == ["status"]:
        return _status(arguments[1:])
    if number := os.environ.get("WEB_CONCURRENCY"):
        # Gunicorn reads it as it is imported, and ends with a traceback
        if not number.isdecimal() or int(number) < 1:
            sys.exit(f"Error: WEB_CONCURRENCY is {number!r}, which is no number of workers. Give one of 1 or more.")
    else:
        os.environ.pop("WEB_CONCURRENCY", None)
    from gunicorn_handover.launcher import serve

    serve()
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"gunicorn_handover {command}", description=description)
    parser.add_argument(
        "--status-file",
        default=os.environ.get(STATUS_VARIABLE),
        help=f"the server's handover.json; by default what ${STATUS_VARIABLE} names",
    )
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    if not options.status_file:
        parser.error(f"name the server's handover.json by --status-file or ${STATUS_VARIABLE}")
    return options


def _reload(arguments: list[str]) -> int:
    parser = _parser("reload", "Asks the server for a reload.")
    parser.add_argument("--wait", action="store_true", help="until it has ended; exit 0 when it succeeded, 1 when not")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds to wait (default: 600)")
    options = _parse(parser, arguments)
    try:
        print(reload(options.status_file, options.timeout if options.wait else None))
    except (ReloadError, status.StatusError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class ReloadError(RuntimeError):
    """The reload failed, or its end is not known. The message says why."""


def reload(path: str, timeout: float | None) -> str:
    """Sends HUP to the master whose status is at `path`, and waits for the outcome at most `timeout` seconds; None
    does not wait. Returns a sentence. Raises ReloadError or StatusError.

    The reload waited for is one that *began* after this call: it has read what was on disk when this was called, no
    matter whose HUP began it or how many HUPs the kernel made one of.
    """
    before = status.read(path)
    pid = before["master"]["pid"]
    if not status.is_alive(before):
        raise ReloadError(f"The master (pid:{pid}) of {path} has ended. Start the service.")
    asked = time.monotonic()
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise ReloadError(f"No permission to signal the master (pid:{pid}). Run this as its user or root.") from None
    except ProcessLookupError:
        raise ReloadError(f"The master (pid:{pid}) of {path} has ended. Start the service.") from None
    if timeout is None:
        return f"Asked the master (pid:{pid}) for a reload."
    where = "not begun"
    while time.monotonic() < asked + timeout:
        time.sleep(POLL)
        if not status.is_alive(before):
            raise ReloadError(f"The master (pid:{pid}) ended during the reload. See the service's log.")
        now = status.read(path)
        last, current = now["reload"], now["reload_under_way"]
        if last is not None and last["began_monotonic"] >= asked:
            if last["outcome"] != "ok":
                raise ReloadError(f"Reload {last['number']} failed: {last['error']}")
            release = f", release {now['release']}" if now["release"] else ""
            return (
                f"Reload {last['number']} done in {last['duration_seconds']:.1f} s: "
                f"generation {now['generation']}{release} serves."
            )
        if current is not None:
            where = current["progress"]
    raise ReloadError(f"The reload has not ended after {timeout:g} s ({where}). It may still end well or badly.")


def _status(arguments: list[str]) -> int:
    parser = _parser("status", "Shows who serves. Exit 0 when all workers are ready, 1 when not.")
    parser.add_argument("--json", action="store_true", help="as JSON, with the workers' memory")
    options = _parse(parser, arguments)
    try:
        found = status.read(options.status_file)
    except status.StatusError as error:
        print(error, file=sys.stderr)
        return 1
    found["master"]["alive"] = status.is_alive(found)
    for worker in found["workers"]:
        worker["rss_bytes"] = status.rss_bytes(worker["pid"]) if found["master"]["alive"] else None
    try:
        print(json.dumps(found, indent=1) if options.json else _for_people(found), flush=True)
    except BrokenPipeError:
        # its reader has seen enough; Python would complain as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ready = sum(worker["state"] == "ready" for worker in found["workers"])
    return 0 if found["master"]["alive"] and ready >= found["workers_wanted"] else 1


def _for_people(found: dict[str, Any]) -> str:
    lines = [
        f"master      {found['master']['pid']}, since {found['master']['started_at']}"
        + ("" if found["master"]["alive"] else ", ENDED"),
        f"generation  {found['generation']}" + (f", release {found['release']}" if found["release"] else ""),
    ]
    if (current := found["reload_under_way"]) is not None:
        lines.append(f"reload      {current['number']}: {current['progress']}")
    if (last := found["reload"]) is not None:
        outcome = last["outcome"] + (f": {last['error']}" if last["error"] else "")
        lines.append(
            f"last reload {last['number']} of {last['requested_at']}: {outcome} ({last['duration_seconds']} s)"
        )
    lines.append(f"workers     {found['workers_wanted']} wanted")
    for worker in found["workers"]:
        memory = "-" if worker["rss_bytes"] is None else f"{worker['rss_bytes'] / 2**20:.0f} MiB"
        lines.append(
            f"  {worker['pid']:>8}  {worker['state']:<8}  generation {worker['generation']}, "
            f"release {worker['release'] or '-'}, {memory}, since {worker['since']}"
        )
    lines.append("versions    " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    return "\n".join(lines)
