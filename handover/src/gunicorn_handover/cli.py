"""The command line: the server itself, and the commands `reload` (also for `ExecReload=`) and `status`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any

from gunicorn_handover import status

POLL = 0.1  # seconds


def main() -> int:
    """`python -m gunicorn_handover [reload|status] ...`. Returns the exit status."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["reload"]:
        return _reload(arguments[1:])
    if arguments[:1] == ["status"]:
        return _status(arguments[1:])
    if number := os.environ.get("WEB_CONCURRENCY"):
        # Gunicorn reads it on import, and would exit with a traceback
        if not number.isdecimal() or int(number) < 1:
            sys.exit(f"Error: WEB_CONCURRENCY is {number!r}. Set it to a number of workers, 1 or more, or unset it.")
    else:
        os.environ.pop("WEB_CONCURRENCY", None)
    from gunicorn_handover.launcher import serve

    serve()
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"gunicorn_handover {command}", description=description)
    parser.add_argument(
        "--status-file",
        default=os.environ.get(status.PATH_VARIABLE),
        help=f"path of the server's handover.json (default: ${status.PATH_VARIABLE})",
    )
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    options = parser.parse_args(arguments)
    if not options.status_file:
        parser.error(f"set the path of the server's handover.json with --status-file or ${status.PATH_VARIABLE}")
    return options


def _reload(arguments: list[str]) -> int:
    parser = _parser("reload", "Tell the server to reload.")
    parser.add_argument("--wait", action="store_true", help="wait for its end; exit 0 if it succeeded, 1 if it failed")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds to wait (default: 600)")
    options = _parse(parser, arguments)
    try:
        print(reload(options.status_file, options.timeout if options.wait else None))
    except (ReloadError, status.StatusError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class ReloadError(RuntimeError):
    """The reload failed, or its outcome is unknown. The message says why."""


def reload(path: str, timeout: float | None) -> str:
    """Sends HUP to the master whose status file is `path`, and waits at most `timeout` seconds for the outcome; with
    None it doesn't wait. Returns a sentence for the user. Raises ReloadError or StatusError.

    It waits for a reload that *started* after this call, and therefore read what was on disk at the time of the call,
    no matter whose HUP started it and how many HUPs the kernel merged.
    """
    before = status.read(path)
    pid = before["master"]["pid"]
    if not status.is_alive(before):
        raise ReloadError(f"The master (pid:{pid}) of {path} has exited. Start the service.")
    asked = time.monotonic()
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        raise ReloadError(f"No permission to signal the master (pid:{pid}). Run this as its user or root.") from None
    except ProcessLookupError:
        raise ReloadError(f"The master (pid:{pid}) of {path} has exited. Start the service.") from None
    if timeout is None:
        return f"Told the master (pid:{pid}) to reload."
    where = "not started"
    while time.monotonic() < asked + timeout:
        time.sleep(POLL)
        if not status.is_alive(before):
            raise ReloadError(f"The master (pid:{pid}) exited during the reload. See the service's log.")
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
    raise ReloadError(f"The reload has not finished after {timeout:g} s ({where}). Its outcome is unknown.")


def _status(arguments: list[str]) -> int:
    parser = _parser("status", "Show the server's status. Exit 0 if all workers are ready, otherwise 1.")
    parser.add_argument("--json", action="store_true", help="print JSON, including the workers' memory")
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
        # the reader has closed the pipe; without this, Python reports an error at exit
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
