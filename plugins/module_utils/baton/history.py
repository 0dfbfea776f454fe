"""What was done to an application on a host: one line of JSON for each change, the newest last."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .activation import Application, served
from .table import aligned

MOST = 500  # lines that are kept
GOOD = ("deployed", "rolled back", "restarted", "configured")


def append(app: Application, entry: Mapping[str, Any]) -> None:
    """Add a line; it is on the disk when this returns."""
    app.state.mkdir(parents=True, exist_ok=True)
    with (app.state / "history.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = [json.dumps(line) for line in [*read(app), dict(entry)]][-MOST:]
        scratch = app.state / "history.new"
        with scratch.open("w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        scratch.rename(_path(app))


def read(app: Application) -> list[dict[str, Any]]:
    """All lines, the oldest first; what makes no sense, such as half a line, is left out."""
    entries = []
    with contextlib.suppress(OSError):
        for line in _path(app).read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    entries.append(entry)
    return entries


def _path(app: Application) -> Any:
    return app.state / "history.jsonl"


def candidates(app: Application, current: str | None) -> list[str]:
    """The releases that a rollback may go to, the best first: complete, served here, and not known to be bad.

    A release is bad when the last change that was to bring it here failed or was put back.
    """
    bad: set[str] = set()
    for entry in read(app):
        if entry.get("kind") in ("deploy", "rollback") and entry.get("release"):
            (bad.discard if entry.get("result") in GOOD else bad.add)(entry["release"])
    return [
        release
        for release in served(app)
        if release != current and release not in bad and (app.release(release) / "release.json").exists()
    ]


def blocking(entries: Iterable[Mapping[str, Any]], current: str | None, wanted: str) -> list[str]:
    """The releases with a blocking migration that came after the wanted one, up to the current one."""
    deployed = [entry for entry in entries if entry.get("kind") == "deploy" and entry.get("result") == "deployed"]
    places = [index for index, entry in enumerate(deployed) if entry.get("release") == wanted]
    after = deployed[places[0] + 1 :] if places else deployed
    names = [str(entry["release"]) for entry in after if entry.get("migrations") == "blocking"]
    return names if current != wanted else []


def merged(hosts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The fleet's changes, the newest first: lines of one change that agree are one, with their hosts."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for host, entries in hosts.items():
        for entry in entries:
            key = tuple(entry.get(name) for name in ("token", "kind", "release", "result", "reason"))
            row = rows.setdefault(key, {**entry, "hosts": [], "seconds": 0.0, "ways": []})
            row["hosts"].append(host)
            row["seconds"] = max(row["seconds"], float(entry.get("seconds") or 0))
            if entry.get("way") not in (None, "none", *row["ways"]):
                row["ways"].append(entry["way"])
    return sorted(rows.values(), key=lambda row: float(row.get("when") or 0), reverse=True)


def table(hosts: Mapping[str, Sequence[Mapping[str, Any]]], lines: int = 20) -> str:
    """The fleet's last changes, for people."""
    told = merged(hosts)[:lines]
    if not told:
        return "Nothing has been deployed here yet."
    header = ("WHEN (UTC)", "WHO", "WHAT", "RELEASE", "VERSION", "HOW IT ENDED", "WAY", "TOOK", "HOSTS")
    text = aligned([header, *(_cells(row) for row in told)])
    failed = next((row for row in told if row.get("reason")), None)
    return text if failed is None else f"{text}\n\nThe last failure: {failed['reason']}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(float(row.get("when") or 0))),
        *(str(row.get(name) or "-") for name in ("who", "kind", "release", "version", "result")),
        ", ".join(row["ways"]) or "-",
        f"{row['seconds']:.1f} s",
        ", ".join(row["hosts"]),
    )


def rollback(hosts: Mapping[str, Mapping[str, Any]], wanted: str, *, force: bool) -> dict[str, str]:
    """The release that the fleet can go back to, or the problem. `hosts`: what baton_history returned on each.

    `wanted` names one; empty for the best that all hosts have. `force` crosses blocking migrations.
    """
    if wanted:
        lacking = [host for host, found in hosts.items() if wanted not in found["releases"]]
        if lacking:
            there = sorted(set.intersection(*(set(found["releases"]) for found in hosts.values())))
            return _no(
                f"The release {wanted} is not complete on {', '.join(lacking)}. "
                f"On every host are: {', '.join(there) or 'none'}."
            )
        release = wanted
    else:
        first, *others = (found["candidates"] for found in hosts.values())
        common = [release for release in first if all(release in candidates for candidates in others)]
        if not common:
            return _no(
                "There is no release to go back to: none but the current one is complete and has served well on every "
                "host. Deploy the version that you want: playbooks/deploy.yml -e app_version=..."
            )
        release = common[0]
    crossed = sorted({name for found in hosts.values() for name in found["blocking"].get(release, [])})
    if crossed and not force:
        return _no(
            f"Going back to {release} crosses the blocking migration of {', '.join(crossed)}: the database isn't "
            "what that release expects any more. Undo the migration first, then: -e rollback_force=true"
        )
    return {"release": release, "problem": ""}


def _no(problem: str) -> dict[str, str]:
    return {"release": "", "problem": problem}
