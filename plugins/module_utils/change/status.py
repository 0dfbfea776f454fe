"""The status of applications and hosts, as a host reads it; `status_report` evaluates it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..activation import background, snapshot
from ..app import health_check, layout, masking, server_status
from ..edge import upstream
from ..host import daemons, systemd, untrusted
from . import deploy_lock, history

ANSWER_SECONDS = 5  # until a server on the same host answers
# what a client sends to ask for TLS on a new connection, and the answer that grants it
STARTTLS = {"postgresql": (bytes.fromhex("0000000804d2162f"), b"S")}  # SSLRequest
TIME = "%a %Y-%m-%d %H:%M:%S %Z"  # as systemctl shows times
# a rate limit on the health page proves that the application serves
LIMITED = "limited (429)"


def serving(app: layout.Application, health: health_check.Health | None) -> dict[str, Any]:
    """Return the application's status on an app server. Keys are those of status_info's RETURN."""
    release = layout.current(app)
    described: dict[str, Any] = {}
    if release is not None:
        with contextlib.suppress(layout.ActivationError, ValueError):
            described = layout.describe(app, release)
    status = server_status.read(app, app.service)
    workers, reload = status.get("workers", []), status.get("reload", {})
    versions, packages = status.get("versions", {}), untrusted.mapping(described.get("packages"))
    return {
        "release": release,
        "version": described.get("version", ""),
        "since": _since(app),
        "python": versions.get("python") or untrusted.text(described.get("python")),
        "gunicorn": versions.get("gunicorn") or untrusted.text(packages.get("gunicorn")),
        "uvicorn": versions.get("uvicorn") or untrusted.text(packages.get("uvicorn")),
        "service": systemd.property_of(app.service, "ActiveState") or "unknown",
        "bridge": systemd.is_active(app.bridge),
        "workers": [
            {key: worker.get(key) for key in ("pid", "state", "release")} | {"memory_mb": memory_mb(worker["pid"])}
            for worker in workers
        ],
        "workers_wanted": status.get("workers_wanted", 0),
        "last_reload": {**reload, "error": _masked(app, reload["error"])} if reload else {},
        "processes": processes(app),
        "schedules": schedules(app),
        "health": _health(app, health_check.answer_of(health)) if health else "",
        "lock": deploy_lock.as_dict(deploy_lock.read(app)),
        "last_change": next(reversed(history.read(app)), None),
        "drift": drift(app),
        "behind": daemons.behind([unit for process in app.processes for unit in process.running]),
    }


def _masked(app: layout.Application, text: str) -> str:
    """Return a text of the application without its secrets."""
    return masking.masked(app.name, text, app.root) if text else ""


def processes(app: layout.Application) -> dict[str, dict[str, Any]]:
    """Return the background processes by type: how many run, of which releases, with how much memory."""
    found = {}
    for process in app.processes:
        if process.strategy not in layout.STRATEGIES:
            continue
        known = background.instances(app, process.name)
        running = [one for one in known if one.running]
        found[process.name] = {
            "wanted": process.count,
            "running": sum(one.state == "active" for one in running),
            "draining": sum(one.draining for one in known),
            "killed": [one.unit for one in known if one.state == "failed" and one.result == "timeout"],
            "restarts": sum(one.restarts for one in running),
            "memory_mb": sum(one.memory for one in known) // 2**20,
            "releases": sorted({one.release for one in running if one.release}),
        }
    return found


def schedules(app: layout.Application) -> dict[str, dict[str, Any]]:
    """Return the scheduled commands by name: whether the timer runs, the next run, and the last result."""
    found = {}
    for process in app.processes:
        if process.strategy != layout.TIMER or not process.count:
            continue
        timer, service = process.templates
        due = systemd.properties(timer, "ActiveState", "NextElapseUSecRealtime", "LastTriggerUSec")
        ran = systemd.properties(service, "ActiveState", "Result", "ExecMainExitTimestamp")
        running = ran.get("ActiveState") in ("activating", "active")
        result, last = ran.get("Result", ""), ran.get("ExecMainExitTimestamp", "")
        if not last and result == "success":
            # systemd's initial value: it has forgotten the last run, as after a reboot, or the command runs now
            result, ended = systemd.last_run(service, running=running)
            last = time.strftime(TIME, time.localtime(ended)) if ended else ""
        found[process.name] = {
            "suspended": app.suspended(process.name).exists(),
            "due": due.get("ActiveState") == "active",
            "running": running,
            "result": result,
            "next": due.get("NextElapseUSecRealtime", ""),
            "last": last or due.get("LastTriggerUSec", ""),
        }
    return found


def _health(app: layout.Application, answer: health_check.Answer) -> str:
    return LIMITED if answer.limited else _masked(app, answer.why) or "ok"


def drift(app: layout.Application) -> list[str]:
    """Return the configuration files that differ from those of the last activation."""
    found, kept = (snapshot.configuration(app, str(root)) for root in (app.root, app.kept))
    # units of rehearsal and bridge don't affect running processes
    units = f"etc/systemd/system/{app.name}-"
    theirs = snapshot.background_files(app)
    names = {*found, *kept}
    names -= snapshot.migration_files(app, names)
    names = {name for name in names if not name.startswith(units) or name in theirs}
    return sorted(f"/{name}" for name in names if kept and _bytes(found, name) != _bytes(kept, name))


def _bytes(files: Mapping[str, pathlib.Path], name: str) -> bytes | None:
    return files[name].read_bytes() if name in files else None


def _since(app: layout.Application) -> float | None:
    """Return when `current` was last changed, in seconds since the epoch."""
    return os.lstat(app.current).st_mtime if app.current.is_symlink() else None


def memory_mb(pid: int) -> int:
    """Return the resident memory of a process in MiB; 0 if the process no longer exists."""
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def unserved(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return which certificates their servers don't serve: `path`, `server` and `unit` of the entry, and `why`."""
    found = [({key: one[key] for key in ("path", "server", "unit")}, _unserved(**one)) for one in entries]
    return [about | {"why": why} for about, why in found if why]


def _unserved(path: str, address: str, port: int, name: str, starttls: str, **_: str) -> str:
    """Return why a server doesn't serve the certificate of a PEM file at an address; empty if it does.

    Also empty if the file can't be read, which `certificates.problem` reports.
    """
    try:
        first, end = pathlib.Path(path).read_text(encoding="ascii").partition("-----END CERTIFICATE-----")[:2]
        wanted = ssl.PEM_cert_to_DER_cert(first[max(0, first.find("-----BEGIN CERTIFICATE-----")) :] + end)
    except (OSError, ValueError):
        return ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((address, port), ANSWER_SECONDS) as plain:
            if starttls:
                request, granted = STARTTLS[starttls]
                plain.sendall(request)
                if plain.recv(len(granted)) != granted:
                    return f"it doesn't offer TLS at {address}:{port}"
            with context.wrap_socket(plain, server_hostname=name or None) as connection:
                found = connection.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        return f"a TLS connection to {address}:{port} fails ({error})"
    return "" if found == wanted else "it still has another one"


def timed_service(name: str) -> dict[str, str]:
    """Return the state of a timer, and the result of its service's last run."""
    return {
        "timer": systemd.property_of(f"{name}.timer", "ActiveState") or "unknown",
        "result": systemd.property_of(f"{name}.service", "Result"),
    }


def _acme(site: str, root: str) -> dict[str, Any]:
    """Return how the last renewal by ACME ended; empty if the certificate isn't from ACME."""
    path = pathlib.Path(root, "var/lib/acme-certificate", site, "status.json")
    try:
        return {"acme": acme_outcome(untrusted.read(path), str(path))}
    except FileNotFoundError:
        # the role writes the settings before the first run
        if not pathlib.Path(root, "etc/acme-certificate", site, "settings.json").exists():
            return {}
        sentence = f"no request for a certificate has ended yet ({path} is missing); run site.yml."
        return {"acme": _without_outcome(sentence)}
    except OSError as error:
        return {"acme": _invalid(str(path), error)}


def acme_outcome(content: str | bytes, path: str) -> dict[str, Any]:
    """Return what `acme-certificate` recorded in a host's file: `trouble`, `refused` (a list), `issued`, and others.

    If the file is invalid, `trouble` is empty, and `invalid` says why and how to repair it.
    """
    try:
        found = untrusted.parse_object(content)
    except untrusted.UntrustedError as error:
        return _invalid(path, error)
    return {
        **found,
        "trouble": untrusted.text(found.get("trouble")),
        "refused": untrusted.texts(found.get("refused")),
        "issued": found.get("issued") is True,
        "invalid": "",
    }


def _invalid(path: str, why: Exception) -> dict[str, Any]:
    sentence = (
        f"{path}, which records how the last request for a certificate ended, can't be read: {why}. Remove it from the "
        "host, and run site.yml, which requests a certificate if one is due, and writes the file again."
    )
    return _without_outcome(sentence)


def _without_outcome(why: str) -> dict[str, Any]:
    return {"trouble": "", "refused": [], "issued": False, "invalid": why}


def edge(site: str, root: str = "/") -> dict[str, Any]:
    """Return a site's status on an edge. Keys are those of status_info's RETURN."""
    found: dict[str, Any] = {"maintenance": pathlib.Path(root, "var/lib/nginx-site", site, "maintenance").exists()}
    with contextlib.suppress(OSError, upstream.UpstreamError):
        text = pathlib.Path(root, "etc/nginx/sites-enabled", f"{site}.conf").read_text(encoding="utf-8")
        found["drained"] = [server for server, down in upstream.servers(text, site).items() if down]
    return found | _acme(site, root)
