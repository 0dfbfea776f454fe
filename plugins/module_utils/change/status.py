"""The status of hosts and applications: the functions that read it on a host, and those that evaluate it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..activation import background, snapshot
from ..app import health_check, layout, masking, server_status
from ..edge import upstream
from ..host import certificates, daemons, systemd, untrusted
from ..host.untrusted import printable
from . import deploy_lock, history
from .table import aligned, utc

DAY = 86400  # seconds
MOST_FILES = 3  # named in a message
ANSWER_SECONDS = 5  # until a server on the same host answers
# what a client sends to ask for TLS on a new connection, and the answer that grants it
STARTTLS = {"postgresql": (bytes.fromhex("0000000804d2162f"), b"S")}  # SSLRequest
TIME = "%a %Y-%m-%d %H:%M:%S %Z"  # as systemctl shows times
# age of the last renewal run after which the renewals have stopped: they run twice a day
STALE = 2 * DAY
# a rate limit on the health page proves that the application serves
LIMITED = "limited (429)"
HEALTHY = ("", "ok", LIMITED)
COUNTS = ("wanted", "running", "draining", "restarts", "memory_mb")  # of background processes
PROCESS_COLUMNS = ("HOST", "PROCESS", "RELEASE", "RUNNING", "DRAINING", "RESTARTS", "MEMORY")
SCHEDULE_COLUMNS = ("HOST", "SCHEDULE", "NEXT RUN", "LAST RUN", "RESULT")
COLUMNS = (
    *("HOST", "RELEASE", "VERSION", "SINCE", "PYTHON", "GUNICORN", "UVICORN", "WORKERS", "MEMORY"),
    *("HEALTH", "CERTIFICATE"),
)


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


def _typed(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return a host's untrusted result with every key in the expected type; of its certificates only their ends."""
    found = dict(host)
    for key in ("problems", "notices", "settings_differ", "site_differs", "drained"):
        found[key] = untrusted.texts(host.get(key))
    if "maintenance" in host:
        found["maintenance"] = host["maintenance"] is True
    found["certificates"] = [
        untrusted.moment(one.get("expires")) for one in untrusted.objects(host.get("certificates"))
    ]
    if host.get("application") is not None:
        app = untrusted.mapping(host["application"])
        found["application"] = {
            **{key: untrusted.text(app.get(key)) for key in ("version", "python", "gunicorn", "uvicorn", "health")},
            "release": untrusted.text(app.get("release")) or None,
            "since": untrusted.moment(app.get("since")) or None,
            "workers_wanted": untrusted.whole_number(app.get("workers_wanted")),
            "workers": [
                {"state": untrusted.text(one.get("state")), "memory_mb": untrusted.whole_number(one.get("memory_mb"))}
                for one in untrusted.objects(app.get("workers"))
            ],
            "processes": {name: _typed_process(about) for name, about in _mappings(app.get("processes"))},
            "schedules": {name: _typed_schedule(about) for name, about in _mappings(app.get("schedules"))},
            "drift": untrusted.texts(app.get("drift")),
            "lock": untrusted.mapping(app.get("lock")),
            "last_change": untrusted.mapping(app.get("last_change")),
        }
    return found


def _mappings(found: Any) -> list[tuple[str, Mapping[str, Any]]]:
    return [(untrusted.text(name), untrusted.mapping(about)) for name, about in untrusted.mapping(found).items()]


def _typed_process(about: Mapping[str, Any]) -> dict[str, Any]:
    counts = {key: untrusted.whole_number(about.get(key)) for key in COUNTS}
    return {**counts, **{key: untrusted.texts(about.get(key)) for key in ("releases", "killed")}}


def _typed_schedule(about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{key: about.get(key) is True for key in ("suspended", "due", "running")},
        **{key: untrusted.text(about.get(key)) for key in ("result", "next", "last")},
    }


def problems(host: str, found: Mapping[str, Any]) -> list[str]:
    """Return the problems of a host, each a sentence with the fix."""
    return [f"{host}: {sentence}" for sentence in _problems(host, found)]


def _problems(host: str, found: Mapping[str, Any]) -> Iterator[str]:
    if (app := found.get("application")) is not None:
        yield from _application_problems(host, app)
    yield from filter(None, (certificates.problem(one, time.time()) for one in found.get("certificates", [])))
    for one in found.get("unserved", []):
        # otherwise another message names the cause
        if found.get("units", {}).get(one["unit"], "active") == "active":
            server = one["server"]
            yield f"{server} doesn't serve the certificate {one['path']}: {one['why']}; {_loading(server)}"
    acme = found.get("acme", {})
    yield from _acme_problems(acme)
    for server in found.get("drained", []):
        yield f"{server} is drained and gets no requests; unless maintenance is in progress, run site.yml."
    for one in found.get("behind", []):
        yield from _behind(host, one)
    timed = found.get("timed_services", {})
    for name, about in timed.items():
        # acme-certificate also fails if it has recorded the cause
        reported = name.startswith("acme-") and (acme.get("trouble") or acme.get("refused"))
        if about["result"] not in ("", "success") and not reported:
            yield (
                f"the last run of {name}.service failed ({about['result']}); `journalctl -u {name}.service` on the "
                "host shows why, and site.yml sets it up again."
            )
    for unit, state in {**found.get("units", {}), **{f"{name}.timer": timed[name]["timer"] for name in timed}}.items():
        if state != "active":
            yield (
                f"the unit {unit} is {state}; `systemctl status {unit}` on the host shows why, and site.yml starts it."
            )


def _application_problems(host: str, app: Mapping[str, Any]) -> Iterator[str]:
    ready = [worker for worker in app["workers"] if worker["state"] == "ready"]
    if app["release"] is None:
        yield "no release has been activated; deploy one."
    elif app["service"] not in ("active", "reloading"):
        yield f"the service is {app['service']}; see playbooks/logs.yml."
    elif len(ready) < app["workers_wanted"] or not ready:
        yield f"{len(ready)} of {app['workers_wanted']} workers are ready."
    if stray := sorted({str(worker["release"]) for worker in ready} - {str(app["release"])}):
        yield f"workers still serve {', '.join(stray)}; run playbooks/restart.yml."
    if app["bridge"]:
        yield "the bridge still runs, so a handover was interrupted; deploy again."
    if app["last_reload"].get("outcome") == "failed":
        yield f"the last reload failed: {app['last_reload'].get('error')}"
    if app["health"] not in HEALTHY:
        yield f"the health page {app['health']}"
    for name, one in app["processes"].items():
        yield from _process_problems(name, one, str(app["release"]))
    for name, one in app["schedules"].items():
        if one["result"] not in ("", "success"):
            yield (
                f"the last run of {name} failed ({one['result']}, {one['last'] or 'time unknown'}); see "
                f"playbooks/logs.yml -e process={name}."
            )
        if not one["due"] and not one["suspended"] and app["release"] is not None:
            yield f"the timer of {name} doesn't run; deploy again."
    # a running change may have written files and not activated them yet, nor does its bridge have the new directives
    if app["lock"]:
        return
    if app["drift"]:
        yield f"{', '.join(app['drift'])} changed since the last handover; run playbooks/configure.yml."
    for one in app["behind"]:
        yield from _behind(host, one, of_application=True)


def _process_problems(name: str, found: Mapping[str, Any], release: str) -> Iterator[str]:
    if found["running"] < found["wanted"]:
        yield f"{found['running']} of {found['wanted']} {name} run; see playbooks/logs.yml -e process={name}."
    elif found["running"] > found["wanted"]:
        yield (
            f"{found['running']} {name} run instead of {found['wanted']}, so a change was interrupted; deploy again."
        )
    for unit in found["killed"]:
        yield (
            f"{unit} didn't finish its job within its stop_timeout and was killed; raise stop_timeout in "
            f"app_processes.{name}. `systemctl reset-failed {unit}` on the host clears this message."
        )
    if stray := sorted(set(found["releases"]) - {release}):
        yield f"{name} still runs {', '.join(stray)}; deploy again."


def _acme_problems(acme: Mapping[str, Any]) -> Iterator[str]:
    when = untrusted.moment(acme.get("when"))
    if acme.get("invalid"):
        yield acme["invalid"]
    if acme.get("trouble"):
        names = ", ".join(untrusted.texts(acme.get("names")))
        in_use = "the previous one is still in use" if acme["issued"] else "no trusted one is in use"
        yield (
            f"no new certificate for {names} from {untrusted.text(acme.get('directory'))}, {ago(time.time() - when)} "
            f"ago: {acme['trouble']}; {in_use}, and the host tries again twice a day."
        )
    if acme and not acme.get("invalid") and abs(time.time() - when) > STALE:
        yield (
            f"the renewal of the site's certificate last ran at {utc(when)}, although it is due twice a "
            "day; `journalctl -u 'acme-*'` on the host shows why, and site.yml sets it up again."
        )
    for refused in acme.get("refused", []):
        yield (
            f"a certificate for the site is unusable, {refused}. The host asks the authority for another one when its "
            "own is due; look at the host that a message names."
        )


def _loading(server: str) -> str:
    """Return what makes a server load its certificate, and where it says why not."""
    if server == "nginx":
        return "`systemctl reload nginx` on the host loads it, or fails with the cause in `journalctl -u nginx`."
    return f"run site.yml, which loads it; if it doesn't, {server}'s log on the host has the cause."


def _behind(host: str, about: Mapping[str, Any], *, of_application: bool = False) -> Iterator[str]:
    """Yield what a process lacks of its current unit. `about`: an entry of `daemons.behind`."""
    unit = about["unit"]
    start = f"`systemctl restart {unit}`, which interrupts it,"
    if about["unread"]:
        yield f"the files of {unit} changed, and systemd hasn't read them; run `systemctl daemon-reload`."
    if about["unconfined"]:
        yield (
            f"{unit} runs without its sandbox, because it was started before the sandbox was set up; {start} fixes "
            "this."
        )
    elif about["newer"] and of_application:
        # changes of the unit files themselves are detected by the activation
        yield (
            f"{unit} was started before {', '.join(about['newer'])} was written, and may run without its directives; "
            f"{start} applies them. Put them into app_service_directives instead: then a change applies them without a "
            "gap."
        )
    if files := about["replaced"]:
        names = ", ".join(files[:MOST_FILES]) + (f" and {len(files) - MOST_FILES} more" if files[MOST_FILES:] else "")
        fix = "playbooks/restart.yml" if of_application else f"playbooks/upgrade_system.yml --limit {host}"
        yield f"{unit} still executes what an upgrade replaced: {names}; run {fix}, which restarts it."


def notices(found: Mapping[str, Any]) -> list[str]:
    """Return notices about a host that are no problems: sentences without the host's name."""
    return [
        f"{one['unit']} was started before {', '.join(one['newer'])} was written; the change applies at its next start "
        f"(`systemctl restart {one['unit']}`)."
        for one in found.get("behind", [])
        if one["newer"] and not one["unconfined"]
    ]


def fleet_problems(found: Mapping[str, Mapping[str, Any]], nameless: Sequence[str] = ()) -> list[str]:
    """Return the problems of the hosts and of the fleet as a whole. `found`: each host's result.

    `nameless`: unreachable hosts whose address is needed to compare the other hosts with the inventory.
    """
    wrong = []
    found = {name: _typed(host) for name, host in found.items()}
    for name, host in found.items():
        wrong += [*host.get("problems", []), *differences(name, host)]
    if nameless:
        wrong.append(
            f"The hosts were not compared with the inventory: {', '.join(nameless)} can't be reached, and the settings "
            "of other hosts contain its address. Set private_address for it in the inventory."
        )
    releases = {host["application"]["release"] for host in found.values() if host.get("application")}
    if len(releases - {None}) > 1:
        wrong.append(f"The app servers serve different releases: {', '.join(sorted(releases - {None}))}; deploy again.")
    if len({host["maintenance"] for host in found.values() if "maintenance" in host}) > 1:
        edges = [name for name, host in found.items() if host.get("maintenance")]
        wrong.append(f"Maintenance is on only on {', '.join(edges)}; run playbooks/maintenance.yml for all edges.")
    return wrong


def differences(name: str, host: Mapping[str, Any]) -> list[str]:
    """Return what differs on a host from the inventory, unless another message already covers it."""
    app = host.get("application") or {}
    settings = set(host.get("settings_differ", [])) - set(app.get("drift", []))
    # a running change is about to write them
    wanted = [(settings if not app.get("lock") else set(), "playbooks/configure.yml")]
    # a drained server is marked in the site's file; the message about it already suggests site.yml
    wanted.append((set(host.get("site_differs", [])) if not host.get("drained") else set(), "site.yml"))
    messages = [
        f"{name}: {', '.join(sorted(paths))} differ{'s' if len(paths) == 1 else ''} from the inventory; run {remedy}."
        for paths, remedy in wanted
        if paths
    ]
    if host.get("incomparable"):
        messages.append(f"{name}: it can't be compared with the inventory: {host['incomparable']}")
    return messages


def table(found: Mapping[str, Mapping[str, Any]], now: float | None = None) -> str:
    """Format each host's result as a row of a table."""
    now = time.time() if now is None else now
    found = {name: _typed(host) for name, host in found.items()}
    rows: list[Sequence[str]] = [COLUMNS]
    for name, host in found.items():
        app = host.get("application")
        # the one that ends first; 0 for one that can't be read
        expires = min(host["certificates"], default=None)
        certificate = "-" if expires is None else certificates.days(expires - now) if expires else "unreadable"
        closed = ["maintenance"] if host.get("maintenance") else []
        if app is None:
            rows.append((name, *["-"] * 8, *(closed or ["-"]), certificate))
            continue
        ready = sum(worker["state"] == "ready" for worker in app["workers"])
        memory = sum(worker["memory_mb"] for worker in app["workers"])
        health = app["health"] if app["health"] in HEALTHY else "FAILS"
        rows.append(
            (
                name,
                app["release"] or "none",
                app["version"] or "-",
                ago(now - app["since"]) if app["since"] else "-",
                app["python"] or "-",
                app["gunicorn"] or "-",
                app["uvicorn"] or "-",
                f"{ready}/{app['workers_wanted']}",
                f"{memory} MiB",
                ", ".join([health or ("ready" if ready else "DOWN"), *closed]),
                certificate,
            )
        )
    tables = [aligned(rows), _process_table(found), _schedule_table(found), "\n".join(notes(found, now))]
    return printable("\n\n".join(filter(None, tables)))


def _process_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the background processes, a row per host and type; empty if there are none."""
    rows: list[Sequence[str]] = [
        (
            *(host, name, ", ".join(one["releases"]) or "-", f"{one['running']}/{one['wanted']}"),
            *(str(one["draining"]), str(one["restarts"]), f"{one['memory_mb']} MiB"),
        )
        for host, about in found.items()
        for name, one in ((about.get("application") or {}).get("processes") or {}).items()
        if one["wanted"] or one["running"] or one["draining"]
    ]
    return aligned([PROCESS_COLUMNS, *rows]) if rows else ""


def _schedule_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the scheduled commands, a row per host and command; empty if there are none."""
    rows: list[Sequence[str]] = [
        (
            *(host, name, "suspended" if one["suspended"] else "running" if one["running"] else one["next"] or "-"),
            *(one["last"] or "never", one["result"] or "-"),
        )
        for host, about in found.items()
        for name, one in ((about.get("application") or {}).get("schedules") or {}).items()
    ]
    return aligned([SCHEDULE_COLUMNS, *rows]) if rows else ""


def notes(found: Mapping[str, Mapping[str, Any]], now: float) -> list[str]:
    """Return notes with their hosts: who holds the lock, how the last change ended, and notices."""
    hosts: dict[str, list[str]] = {}
    for name, host in found.items():
        app = host.get("application") or {}
        for sentence in host.get("notices", []):
            hosts.setdefault(sentence, []).append(name)
        if lock := app.get("lock"):
            expires = untrusted.moment(lock.get("expires"))
            ends = "has expired" if expires <= now else f"expires at {utc(expires)} unless it is extended"
            hosts.setdefault(f"locked by {untrusted.text(lock.get('description'))}; the lock {ends}.", []).append(name)
        if change := app.get("last_change"):
            hosts.setdefault(_ending(change, now), []).append(name)
    return [f"{', '.join(names)}: {untrusted.line(words)}" for words, names in hosts.items()]


def _ending(change: Mapping[str, Any], now: float) -> str:
    what = " ".join(str(change[key]) for key in ("kind", "version") if change.get(key))
    with_baton = f"with Baton {change['baton']} " if change.get("baton") else ""
    words = (
        f"last change: {what} ({change.get('release') or 'no release'}) by {change.get('who') or 'unknown'} "
        f"{with_baton}{ago(now - untrusted.moment(change.get('when')))} ago, {change.get('result')}"
    )
    return f"{words}: {change['reason']}" if change.get("reason") else f"{words}."


def ago(seconds: float) -> str:
    """Format a duration in its largest whole unit, such as 3 h."""
    for size, unit in ((DAY, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
