"""The status that a master writes about itself and its workers, and the proof that they serve a release."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

from ..host import systemd, untrusted
from .health_check import Health, check
from .layout import Application, current

STATUS_SIZE = 2**22  # bytes
MAX_PID = 2**22  # the kernel's maximum


def read(app: Application, unit: str) -> dict[str, Any]:
    """Return the status of a unit's master, in the expected types; empty if there is none or it is invalid."""
    with contextlib.suppress(OSError, untrusted.UntrustedError):
        status = untrusted.parse_object(untrusted.read(app.status_file(unit), STATUS_SIZE))
        workers, master = status.get("workers", []), untrusted.mapping(status.get("master"))
        if isinstance(workers, list) and all(map(_is_worker, workers)):
            return {
                **status,
                "master": {"pid": untrusted.whole_number(master.get("pid"))},
                "workers": workers,
                "workers_wanted": untrusted.whole_number(status.get("workers_wanted")),
                "reload": _reload(untrusted.mapping(status.get("reload"))),
                "versions": {
                    name: untrusted.text(one) for name, one in untrusted.mapping(status.get("versions")).items()
                },
            }
    return {}


def _reload(reload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of the last reload in the expected types; empty if there was none."""
    if not reload:
        return {}
    texts = {key: untrusted.text(reload.get(key)) for key in ("outcome", "error")}
    return {**texts, "began_monotonic": untrusted.number(reload.get("began_monotonic"))}


def _is_worker(worker: Any) -> bool:
    if not isinstance(worker, dict) or "release" not in worker or not isinstance(worker.get("state"), str):
        return False
    return isinstance(worker["release"], str | None) and 0 < untrusted.whole_number(worker.get("pid")) < MAX_PID


def unproven(status: Mapping[str, Any], release: str, master: int) -> str:
    """Return why a master's status doesn't prove that every worker serves the release; empty if it does.

    `master`: pid of the unit's main process, by systemd.
    """
    if status.get("master", {}).get("pid") != master:
        return "the master hasn't written its status"
    workers = [worker for worker in status["workers"] if worker["state"] != "draining"]
    for worker in workers:
        if worker["release"] != release:
            return f"worker {worker['pid']} serves release {worker['release']}, not {release}"
    # beside these, another may boot that replaces one of them after max_requests
    ready = [worker["pid"] for worker in workers if worker["state"] == "ready"]
    if len(ready) < status["workers_wanted"]:
        return f"{len(ready)} of {status['workers_wanted']} workers serve"
    for pid in ready:
        if not pathlib.Path(f"/proc/{pid}").exists():
            return f"worker {pid} no longer exists"
    return ""


def draining(app: Application) -> list[int]:
    """Return the pids of the web workers that no longer accept connections and finish their requests."""
    workers = [worker["pid"] for worker in read(app, app.service).get("workers", []) if worker["state"] == "draining"]
    return [pid for pid in workers if pathlib.Path(f"/proc/{pid}").exists()]


def unready(app: Application, health: Health | None) -> str:
    """Return why the application doesn't serve its current release with every worker; empty if it does."""
    release = current(app)
    if release is None:
        return "no release has been activated"
    master = systemd.main_pid(app.service)
    if not master:
        return f"{app.service} doesn't run"
    why = unproven(read(app, app.service), release, master)
    if not why and health and (answer := check(health)):
        return f"{health.path} {answer}"
    return why
