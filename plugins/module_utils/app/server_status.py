"""What a master says of itself and its workers, and what of that proves that they serve a release."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

from ..host import systemd, untrusted
from .health_check import Health, check
from .layout import Application, current

STATUS_SIZE = 2**22
MOST_PROCESSES = 2**22  # the kernel gives no larger number to a process


def read(app: Application, unit: str) -> dict[str, Any]:
    """What a unit's master says of itself; empty when it says nothing, or what no master would."""
    with contextlib.suppress(OSError, untrusted.UntrustedError):
        said = untrusted.parse_object(untrusted.read(app.status_file(unit), STATUS_SIZE))
        workers, master = said.get("workers", []), untrusted.mapping(said.get("master"))
        if isinstance(workers, list) and all(map(_is_worker, workers)):
            return {
                **said,
                "master": {"pid": untrusted.whole_number(master.get("pid"))},
                "workers": workers,
                "workers_wanted": untrusted.whole_number(said.get("workers_wanted")),
                "reload": _reload(untrusted.mapping(said.get("reload"))),
                "versions": {
                    name: untrusted.text(one) for name, one in untrusted.mapping(said.get("versions")).items()
                },
            }
    return {}


def _reload(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of the last reload; empty when there was none."""
    if not told:
        return {}
    words = {key: untrusted.text(told.get(key)) for key in ("outcome", "error")}
    return {**words, "began_monotonic": untrusted.number(told.get("began_monotonic"))}


def _is_worker(told: Any) -> bool:
    if not isinstance(told, dict) or "release" not in told or not isinstance(told.get("state"), str):
        return False
    return isinstance(told["release"], str | None) and 0 < untrusted.whole_number(told.get("pid")) < MOST_PROCESSES


def unproven(said: Mapping[str, Any], release: str, master: int) -> str:
    """Why a master's status doesn't prove that every worker serves the release; empty when it does."""
    if said.get("master", {}).get("pid") != master:
        return "the master hasn't written its status"
    workers = [worker for worker in said["workers"] if worker["state"] != "draining"]
    if len(workers) < said["workers_wanted"]:
        return f"{len(workers)} of {said['workers_wanted']} workers serve"
    for worker in workers:
        if worker["state"] != "ready":
            return f"worker {worker['pid']} is {worker['state']}"
        if worker["release"] != release:
            return f"worker {worker['pid']} serves release {worker['release']}, not {release}"
        if not pathlib.Path(f"/proc/{worker['pid']}").exists():
            return f"worker {worker['pid']} is gone"
    return ""


def unready(app: Application, health: Health | None) -> str:
    """Why the application doesn't serve its current release with every worker; empty when it does."""
    release = current(app)
    if release is None:
        return "no release has been activated"
    master = int(systemd.properties(app.service, "MainPID").get("MainPID", "0"))
    if not master:
        return f"{app.service} doesn't run"
    why = unproven(read(app, app.service), release, master)
    if not why and health and (answer := check(health)):
        return f"{health.path} {answer}"
    return why
