"""The problems that the status of hosts and applications shows, and its tables."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..host import certificates, untrusted
from ..host.untrusted import printable
from .status import LIMITED
from .table import aligned, utc

DAY = 86400  # seconds
MOST_FILES = 3  # named in a message
# age of the last renewal run after which the renewals have stopped: they run twice a day
STALE = 2 * DAY
HEALTHY = ("", "ok", LIMITED)
COUNTS = ("wanted", "running", "draining", "restarts", "memory_mb")  # of background processes
PROCESS_COLUMNS = ("HOST", "PROCESS", "RELEASE", "RUNNING", "DRAINING", "RESTARTS", "MEMORY")
SCHEDULE_COLUMNS = ("HOST", "SCHEDULE", "NEXT RUN", "LAST RUN", "RESULT")
COLUMNS = (
    *("HOST", "RELEASE", "VERSION", "SINCE", "PYTHON", "GUNICORN", "UVICORN", "WORKERS", "MEMORY"),
    *("HEALTH", "CERTIFICATE"),
)


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
