"""The status of the fleet as it is shown to the operator."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.activation import snapshot
from ansible_collections.baton.web.plugins.module_utils.app import health_check, layout
from ansible_collections.baton.web.plugins.module_utils.change import status, status_report
from ansible_collections.baton.web.plugins.module_utils.host import systemd

from tests.support.certificate import issue


def app_server(**changed: Any) -> dict[str, Any]:
    application = {
        "release": "aaaa",
        "version": "1.2",
        "since": time.time() - 7300,
        "python": "3.13.5",
        "gunicorn": "27.0.1",
        "uvicorn": "0.54.0",
        "service": "active",
        "bridge": False,
        "workers_wanted": 2,
        "workers": [
            {"pid": 10, "state": "ready", "release": "aaaa", "memory_mb": 60},
            {"pid": 11, "state": "ready", "release": "aaaa", "memory_mb": 61},
        ],
        "last_reload": {},
        "health": "ok",
        "lock": None,
        "last_change": None,
        "processes": {},
        "schedules": {},
        "drift": [],
        "behind": [],
    }
    return {"application": application | changed, "units": {}}


def background(**changed: Any) -> dict[str, Any]:
    fields = {"wanted": 2, "running": 2, "draining": 1, "killed": [], "restarts": 3, "memory_mb": 90}
    return {**fields, "releases": ["aaaa"], **changed}


def scheduled(**changed: Any) -> dict[str, Any]:
    fields = {"suspended": False, "due": True, "running": False, "result": "success"}
    return {**fields, "next": "Sat 2026-11-28 03:00:00 UTC", "last": "Fri 2026-11-27 03:00:02 UTC", **changed}


def outdated_unit(**changed: Any) -> dict[str, Any]:
    return {"unit": "links.service", "unread": False, "unconfined": False, "newer": [], "replaced": [], **changed}


def test_outdated_units_are_no_problem_during_a_change() -> None:
    host = app_server(behind=[outdated_unit(unread=True, unconfined=True)], lock={"description": "ann"})
    assert status_report.problems("app1", host) == []


def test_missing_sandbox_is_a_problem_and_an_outdated_drop_in_a_notice() -> None:
    found = {"units": {}, "behind": [outdated_unit(unit="nginx.service", unconfined=True, newer=["/x"])]}
    (message,) = status_report.problems("edge1", found)
    assert message.startswith("edge1: nginx.service runs without its sandbox")
    assert "`systemctl restart nginx.service`" in message
    assert status_report.notices(found) == []
    found["behind"] = [outdated_unit(unit="nginx.service", newer=["/x"])]
    assert status_report.problems("edge1", found) == []
    (message,) = status_report.notices(found)
    assert "nginx.service was started before /x was written" in message
    assert f"edge1, edge2: {message}" in status_report.table(
        {name: {**found, "notices": [message]} for name in ("edge1", "edge2")}
    )


def test_replaced_libraries_are_a_problem_with_the_playbook_that_restarts_the_unit() -> None:
    files = [f"/usr/lib/lib{name}.so" for name in "abcde"]
    assert status_report.problems("app1", app_server(behind=[outdated_unit(replaced=files[:1])])) == [
        "app1: links.service still executes what an upgrade replaced: /usr/lib/liba.so; run playbooks/restart.yml, "
        "which restarts it."
    ]
    daemon = outdated_unit(unit="nginx.service", replaced=files)
    assert status_report.problems("edge1", {"behind": [daemon]}) == [
        "edge1: nginx.service still executes what an upgrade replaced: /usr/lib/liba.so, /usr/lib/libb.so, "
        "/usr/lib/libc.so and 2 more; run playbooks/upgrade_system.yml --limit edge1, which restarts it."
    ]
    # a rollout is about to replace it
    assert status_report.problems("app1", app_server(behind=[outdated_unit(replaced=files)], lock={"by": "ann"})) == []


def test_schedules_have_a_separate_table() -> None:
    host = app_server(
        schedules={"cleanup": scheduled(), "report": scheduled(suspended=True, due=False, last="", result="")}
    )
    assert status_report.problems("app1", host) == []
    lines = status_report.table({"app1": host, "app2": app_server()}).splitlines()
    first = next(number for number, line in enumerate(lines) if "NEXT RUN" in line)
    assert lines[first].split() == ["HOST", "SCHEDULE", "NEXT", "RUN", "LAST", "RUN", "RESULT"]
    assert lines[first + 1].endswith("success")
    assert lines[first + 2].split() == ["app1", "report", "suspended", "never", "-"]


FORGOTTEN = {"ActiveState": "inactive", "Result": "success", "ExecMainExitTimestamp": ""}
FRIDAY, SATURDAY = "Fri 2026-11-27 03:00:02 UTC", "Sat 2026-11-28 03:00:00 UTC"


@pytest.mark.parametrize(
    ("service", "in_journal", "expected"),
    [
        ({**FORGOTTEN, "ExecMainExitTimestamp": FRIDAY}, ("x", 1), ("success", FRIDAY)),
        ({**FORGOTTEN, "Result": "exit-code", "ExecMainExitTimestamp": FRIDAY}, ("x", 1), ("exit-code", FRIDAY)),
        ({**FORGOTTEN, "Result": "resources"}, ("x", 1), ("resources", SATURDAY)),
        (FORGOTTEN, ("signal", 1764212402), ("signal", "Thu 2025-11-27 03:00:02 UTC")),
        (FORGOTTEN, ("", 0), ("", SATURDAY)),
        ({**FORGOTTEN, "ActiveState": "activating"}, ("exit-code", 1764212402), ("exit-code", "Thu 2025-11-27")),
    ],
)
def test_last_run_that_systemd_has_forgotten_is_read_from_the_journal(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    service: dict[str, str],
    in_journal: tuple[str, float],
    expected: tuple[str, str],
) -> None:
    """systemd's result of a command that it hasn't started since the boot is `success`."""
    app = layout.Application("links", str(tmp_path))
    app.schedule_settings.parent.mkdir(parents=True)
    app.schedule_settings.write_text(json.dumps({"cleanup": {"runs": True}}))
    running = service["ActiveState"] == "activating"
    units = {"links-cleanup.timer": {"LastTriggerUSec": SATURDAY}, "links-cleanup.service": service}
    monkeypatch.setattr(systemd, "properties", lambda unit, *_: units[unit])
    monkeypatch.setattr(systemd, "last_run", lambda _, **asked: in_journal if asked == {"running": running} else None)
    found = status.schedules(app)["cleanup"]
    assert (found["result"], found["running"]) == (expected[0], running)
    assert found["last"].startswith(expected[1])
    host = app_server(schedules={"cleanup": scheduled(result="")})
    assert status_report.table({"app1": host}).splitlines()[-1].split()[-1] == "-"


def test_background_processes_have_a_separate_table() -> None:
    host = app_server(processes={"worker": background(), "beat": background(wanted=0, running=0, draining=0)})
    assert status_report.problems("app1", host) == []
    shown = status_report.table({"app1": host, "app2": app_server()}).splitlines()
    first = next(number for number, line in enumerate(shown) if "DRAINING" in line)
    assert shown[first].split() == ["HOST", "PROCESS", "RELEASE", "RUNNING", "DRAINING", "RESTARTS", "MEMORY"]
    assert [line.split() for line in shown[first + 1 :] if line] == [
        ["app1", "worker", "aaaa", "2/2", "1", "3", "90", "MiB"]
    ]
    assert "PROCESS" not in status_report.table({"app2": app_server()})


def test_healthy_host_has_no_problem() -> None:
    assert status_report.problems("app1", app_server()) == []


def test_rate_limited_health_page_is_no_problem() -> None:
    app = layout.Application("links")
    health = status._health(app, health_check.Answer("answers 429: slow down", limited=True))
    assert health == "limited (429)"
    assert status_report.problems("app1", app_server(health=health)) == []
    assert status._health(app, health_check.Answer("answers 503: no")) == "answers 503: no"
    assert status._health(app, health_check.Answer()) == "ok"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"release": None, "workers": []}, "no release has been activated"),
        ({"service": "failed"}, "the service is failed"),
        ({"workers_wanted": 3}, "2 of 3 workers are ready"),
        ({"workers": [], "workers_wanted": 0}, "0 of 0 workers are ready"),
        ({"release": "bbbb"}, "workers still serve aaaa"),
        ({"bridge": True}, "the bridge still runs"),
        (
            {"last_reload": {"outcome": "failed", "error": "no module named x"}},
            "the last reload failed: no module named x",
        ),
        ({"health": "answers 503: database"}, "the health page answers 503: database"),
        ({"drift": ["/etc/links/environment"]}, "/etc/links/environment changed since the last handover"),
        (
            {"processes": {"worker": background(running=1)}},
            "1 of 2 worker run; see playbooks/logs.yml -e process=worker",
        ),
        ({"processes": {"worker": background(running=3)}}, "3 worker run instead of 2, so a change was interrupted"),
        ({"processes": {"worker": background(releases=["bbbb"])}}, "worker still runs bbbb; deploy again"),
        (
            {"processes": {"worker": background(killed=["links-worker@1-2.service"])}},
            "links-worker@1-2.service didn't finish its job within its stop_timeout and was killed",
        ),
        ({"schedules": {"cleanup": scheduled(result="exit-code")}}, "the last run of cleanup failed (exit-code, Fri"),
        ({"schedules": {"cleanup": scheduled(due=False)}}, "the timer of cleanup doesn't run; deploy again"),
        ({"behind": [outdated_unit(unread=True)]}, "the files of links.service changed, and systemd hasn't read them"),
        ({"behind": [outdated_unit(unconfined=True, newer=["/x"])]}, "links.service runs without its sandbox"),
        (
            {"behind": [outdated_unit(newer=["/x.conf"])]},
            "before /x.conf was written, and may run without its",
        ),
    ],
)
def test_each_fault_of_an_app_server_is_named_with_its_host(changed: dict[str, Any], words: str) -> None:
    found = status_report.problems("app1", app_server(**changed))
    assert len(found) == 1
    assert found[0].startswith("app1: ")
    assert words in found[0]


def certificate(left: float, lifetime: float = 90, **changed: Any) -> dict[str, Any]:
    """A certificate that ends in `left` days."""
    expires = time.time() + left * status_report.DAY + 60
    known = {"path": "/c.pem", "purpose": "of the site", "method": "self_signed", "renew_days": 30}
    return {**known, "begins": expires - lifetime * status_report.DAY, "expires": expires, **changed}


def test_certificate_that_ends_soon_is_a_problem() -> None:
    (message,) = status_report.problems("edge1", {"certificates": [certificate(80), certificate(22)]})
    assert message == "edge1: the certificate of the site (/c.pem) expires in 22 days; run site.yml to renew it."


@pytest.fixture(params=["", "postgresql"])
def served(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A certificate that a server has loaded. With PostgreSQL, the client has to ask for TLS."""
    chain = issue("links.example.org")
    file = tmp_path / "fullchain.pem"
    file.write_text(f"A comment\n{chain.certificate}{issue('authority').certificate}")
    (tmp_path / "privkey.pem").write_text(chain.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, tmp_path / "privkey.pem")

    def answer() -> None:
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                plain, _ = listener.accept()
                if request.param:
                    # SSLRequest: its length and code (PostgreSQL's "Message Formats")
                    assert plain.recv(8) == struct.pack("!II", 8, 80877103)
                    plain.sendall(b"S")
                with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        about = {"server": "PostgreSQL" if request.param else "nginx", "unit": "server.service"}
        where = {"address": "127.0.0.1", "port": listener.getsockname()[1], "name": "links.example.org"}
        yield {"path": str(file), "starttls": request.param, **about, **where}
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_certificate_that_its_server_has_not_loaded_is_a_problem(served: dict[str, Any]) -> None:
    file = pathlib.Path(served["path"])

    def problems(state: str = "active", **changed: Any) -> list[str]:
        found = {"units": {"server.service": state}, "unserved": status.unserved([served | changed])}
        return [words for words in status_report.problems("edge1", found) if "doesn't serve" in words]

    assert problems() == []
    file.write_text(issue("links.example.org").certificate)
    fix = {
        "nginx": "`systemctl reload nginx` on the host loads it, or fails with the cause in `journalctl -u nginx`.",
        "PostgreSQL": "run site.yml, which loads it; if it doesn't, PostgreSQL's log on the host has the cause.",
    }[served["server"]]
    assert problems() == [
        f"edge1: {served['server']} doesn't serve the certificate {file}: it still has another one; {fix}"
    ]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free: int = closed.getsockname()[1]
    assert "a TLS connection to 127.0.0.1" in problems(port=free)[0]
    # other messages name the cause
    assert problems(state="failed", port=free) == []
    file.write_text("not a certificate")
    assert problems() == []


def test_server_that_refuses_tls_is_a_problem(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "fullchain.pem"
    file.write_text(issue("links.example.org").certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        served = {"path": str(file), "address": "127.0.0.1", "port": port, "name": "", "starttls": "postgresql"}

        def refuse() -> None:
            plain, _ = listener.accept()
            with plain:
                plain.recv(8)
                plain.sendall(b"N")

        thread = threading.Thread(target=refuse)
        thread.start()
        (found,) = status.unserved([served | {"server": "PostgreSQL", "unit": "postgresql.service"}])
        thread.join()
    assert found["why"] == f"it doesn't offer TLS at 127.0.0.1:{port}"


def test_failed_renewal_is_reported_with_authority_names_and_cause(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "var/lib/acme-certificate/links"
    folder.mkdir(parents=True)
    report = {"directory": "https://ca.example/dir", "names": ["links.example"], "when": time.time() - 7300}
    (folder / "status.json").write_text(json.dumps(report | {"trouble": "too many certificates", "issued": True}))
    (message,) = status_report.problems("edge1", status.edge("links", str(tmp_path)))
    for words in ("links.example from https://ca.example/dir, 2 h ago: too many certificates", "is still in use"):
        assert words in message
    (folder / "status.json").write_text(json.dumps(report | {"trouble": ""}))
    assert status_report.problems("edge1", status.edge("links", str(tmp_path))) == []


def test_certificates_that_an_edge_refuses_are_reported_with_their_source(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "var/lib/acme-certificate/links"
    folder.mkdir(parents=True)
    refused = "that of 10.0.0.11: clients would not trust it: self-signed certificate"
    report = {"trouble": "", "issued": True, "refused": [refused, 7], "when": time.time()}
    (folder / "status.json").write_text(json.dumps(report))
    (message,) = status_report.problems("edge1", status.edge("links", str(tmp_path)))
    for words in ("edge1: a certificate for the site is unusable, that", refused, "asks the authority"):
        assert words in message


def test_invalid_outcome_of_a_renewal_is_a_problem(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "var/lib/acme-certificate/links/status.json"
    file.parent.mkdir(parents=True)
    for content in ("", "[]", "[" * 100_000, "{", '{"issued": true, "issued": false}', "\xff"):
        file.write_text(content)
        (message,) = status_report.problems("edge1", status.edge("links", str(tmp_path)))
        assert message.startswith(
            f"edge1: {file}, which records how the last request for a certificate ended, can't be"
        )
        assert "Remove it from the host, and run site.yml" in message
    file.unlink()
    os.mkfifo(file)
    (message,) = status_report.problems("edge1", status.edge("links", str(tmp_path)))
    assert "is not a regular file. Remove it" in message
    file.unlink()
    assert status_report.problems("edge1", status.edge("links", str(tmp_path))) == []


@pytest.mark.parametrize("days", [1.9, 2.1, -3])
def test_renewals_that_stopped_are_a_problem(tmp_path: pathlib.Path, days: float) -> None:
    folder, settings = tmp_path / "var/lib/acme-certificate/links", tmp_path / "etc/acme-certificate/links"
    for one in (folder, settings):
        one.mkdir(parents=True)
    assert status_report.problems("edge1", status.edge("links", str(tmp_path))) == []
    # the role has set them up, and they never ran
    (settings / "settings.json").touch()
    (message,) = status_report.problems("edge1", status.edge("links", str(tmp_path)))
    missing = f"{folder}/status.json is missing"
    assert message == f"edge1: no request for a certificate has ended yet ({missing}); run site.yml."
    when = time.time() - days * 86400
    (folder / "status.json").write_text(json.dumps({"trouble": "", "issued": True, "when": when}))
    found = status_report.problems("edge1", status.edge("links", str(tmp_path)))
    last = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))
    assert found == (
        []
        if days == 1.9
        else [
            f"edge1: the renewal of the site's certificate last ran at {last}, although it is due twice a day; "
            "`journalctl -u 'acme-*'` on the host shows why, and site.yml sets it up again."
        ]
    )


def test_inactive_unit_is_a_problem() -> None:
    assert status_report.problems("edge1", {"units": {"nginx.service": "active"}}) == []
    assert status_report.problems("edge1", {"units": {"nginx.service": "failed"}}) == [
        "edge1: the unit nginx.service is failed; `systemctl status nginx.service` on the host shows why, and site.yml "
        "starts it."
    ]


def test_timer_that_does_not_run_and_failure_of_its_service_are_problems() -> None:
    def problems(result: str, timer: str = "active", **acme: Any) -> list[str]:
        timed = {"acme-links": {"timer": timer, "result": result}}
        outcome = {"issued": True, "when": time.time(), **acme}
        return status_report.problems("edge1", {"timed_services": timed, "acme": outcome})

    assert problems("success") == []
    (stopped,) = problems("success", timer="inactive")
    assert stopped.startswith("edge1: the unit acme-links.timer is inactive; ")
    # such as after an upgrade of Python, before it can record anything
    (failed,) = problems("exit-code")
    assert failed.startswith("edge1: the last run of acme-links.service failed (exit-code); `journalctl -u acme-")
    (trouble,) = problems("exit-code", trouble="too many certificates")
    assert "too many certificates" in trouble


def test_different_releases_are_a_problem_of_the_fleet() -> None:
    one, two = app_server(), app_server(release="bbbb")
    assert status_report.fleet_problems({"app1": one, "app2": app_server()}) == []
    assert "different releases: aaaa, bbbb" in status_report.fleet_problems({"app1": one, "app2": two})[0]


def test_table_has_a_line_for_each_host_and_aligned_columns() -> None:
    now = time.time()
    text = status_report.table(
        {"app1": app_server(), "edge1": {"certificates": [certificate(365), certificate(90)]}}, now
    )
    header, first, second = text.splitlines()
    assert first.split() == [
        *("app1", "aaaa", "1.2", "2", "h", "3.13.5", "27.0.1", "0.54.0", "2/2", "121", "MiB", "ok", "-"),
    ]
    assert second.endswith("90 days")
    assert header.index("HEALTH") == first.index("ok")


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (2 * 86400, "2 d")]
)
def test_durations_are_in_their_largest_unit(seconds: float, words: str) -> None:
    assert status_report.ago(seconds) == words


def test_memory_of_an_ended_process_is_zero() -> None:
    assert status.memory_mb(2**22 + 1) == 0


def test_maintenance_is_shown_and_is_no_problem(tmp_path: pathlib.Path) -> None:
    flag = tmp_path / "var/lib/nginx-site/links/maintenance"
    flag.parent.mkdir(parents=True)
    flag.touch()
    edge = {"units": {}} | status.edge("links", str(tmp_path))
    assert status_report.problems("edge1", edge) == []
    assert status_report.table({"edge1": edge}).splitlines()[1].split()[9] == "maintenance"
    assert " ok, maintenance " in status_report.table({"web1": app_server() | edge})


def test_maintenance_on_only_some_edges_is_a_problem() -> None:
    (sentence,) = status_report.fleet_problems({"edge1": {"maintenance": True}, "edge2": {"maintenance": False}})
    assert "only on edge1" in sentence


def test_drained_server_is_a_problem(tmp_path: pathlib.Path) -> None:
    site = tmp_path / "etc/nginx/sites-enabled/links.conf"
    site.parent.mkdir(parents=True)
    site.write_text("upstream links {\n    server a:1 max_fails=0 down;\n    server b:1 max_fails=0;\n}\n")
    (sentence,) = status_report.problems("edge1", status.edge("links", str(tmp_path)))
    assert "a:1 is drained" in sentence


LOCK = {"description": "ann@laptop since noon (deploy v2)", "expires": 1000.0}
CHANGE = {"kind": "deploy", "version": "1.2", "release": "aaaa", "who": "ann@laptop", "when": 10.0}


def test_drift_during_a_change_is_no_problem() -> None:
    assert status_report.problems("app1", app_server(drift=["/etc/links/environment"], lock=LOCK)) == []


def test_lock_is_noted_once_for_all_hosts() -> None:
    fleet = {"app1": app_server(lock=LOCK), "app2": app_server(lock=LOCK), "app3": app_server()}
    assert status_report.notes(fleet, 900.0) == [
        "app1, app2: locked by ann@laptop since noon (deploy v2); "
        "the lock expires at 1970-01-01 00:16:40 UTC unless it is extended."
    ]
    assert status_report.notes(fleet, 1000.0)[0].endswith("the lock has expired.")
    assert status_report.fleet_problems({name: {**host, "problems": []} for name, host in fleet.items()}) == []


def test_last_change_is_noted_with_its_result() -> None:
    deployed, reverted = (
        CHANGE | {"result": "deployed", "baton": "0.2.0"},
        CHANGE | {"result": "reverted", "reason": "app2, handover: boom"},
    )
    fleet = {"app1": app_server(last_change=deployed), "app2": app_server(last_change=reverted), "edge1": {"units": {}}}
    assert status_report.notes(fleet, 130.0) == [
        "app1: last change: deploy 1.2 (aaaa) by ann@laptop with Baton 0.2.0 2 min ago, deployed.",
        "app2: last change: deploy 1.2 (aaaa) by ann@laptop 2 min ago, reverted: app2, handover: boom",
    ]
    assert status_report.table(fleet, 130.0).splitlines()[-2:] == status_report.notes(fleet, 130.0)


def test_drift_is_the_difference_from_the_last_handover(tmp_path: pathlib.Path) -> None:
    app = layout.Application("links", str(tmp_path))
    units = tmp_path / "etc/systemd/system"
    for folder in (tmp_path / "etc/links/secrets", units, app.state):
        folder.mkdir(parents=True)
    for path, text in {
        tmp_path / "etc/links/gunicorn.conf.py": "workers = 2",
        tmp_path / "etc/links/environment": "A=1",
        tmp_path / "etc/links/secrets/TOKEN": "one",
        units / "links.service": "[Service]",
        units / "links-bridge.service": "[Service]",
    }.items():
        path.write_text(text)
    assert status.drift(app) == []
    snapshot.keep(app, app.kept)
    assert status.drift(app) == []
    (tmp_path / "etc/links/environment").write_text("A=2")
    (tmp_path / "etc/links/secrets/TOKEN").unlink()
    (units / "links.socket").write_text("[Socket]")
    (units / "links-bridge.service").write_text("")
    assert status.drift(app) == [
        "/etc/links/environment",
        "/etc/links/secrets/TOKEN",
        "/etc/systemd/system/links.socket",
    ]


def test_differences_from_the_inventory_are_problems_with_their_fix() -> None:
    fleet = {
        "app1": app_server() | {"settings_differ": ["/etc/links/gunicorn.conf.py", "/etc/links/environment"]},
        "app2": app_server() | {"settings_differ": ["/etc/links/secrets/TOKEN"]},
        "app3": app_server() | {"settings_differ": [], "site_differs": [], "incomparable": ""},
        "edge1": {"units": {}, "site_differs": ["/etc/nginx/sites-enabled/links.conf"]},
    }
    assert status_report.fleet_problems(fleet) == [
        "app1: /etc/links/environment, /etc/links/gunicorn.conf.py differ from the inventory; "
        "run playbooks/configure.yml.",
        "app2: /etc/links/secrets/TOKEN differs from the inventory; run playbooks/configure.yml.",
        "edge1: /etc/nginx/sites-enabled/links.conf differs from the inventory; run site.yml.",
    ]


def test_drift_and_difference_of_the_same_file_are_reported_once() -> None:
    host = app_server(drift=["/etc/links/environment"])
    differing = ["/etc/links/environment", "/etc/links/gunicorn.conf.py"]
    found = host | {"problems": status_report.problems("app1", host), "settings_differ": differing}
    assert status_report.fleet_problems({"app1": found}) == [
        "app1: /etc/links/environment changed since the last handover; run playbooks/configure.yml.",
        "app1: /etc/links/gunicorn.conf.py differs from the inventory; run playbooks/configure.yml.",
    ]
    assert status_report.differences("app1", found | {"settings_differ": ["/etc/links/environment"]}) == []


def test_differences_during_a_change_are_not_reported() -> None:
    assert (
        status_report.differences("app1", app_server(lock=LOCK) | {"settings_differ": ["/etc/links/environment"]}) == []
    )


def test_drained_server_is_not_reported_as_a_difference() -> None:
    site = {"site_differs": ["/etc/nginx/sites-enabled/links.conf"]}
    assert status_report.differences("edge1", site | {"drained": ["a:1"]}) == []
    assert len(status_report.differences("edge1", site | {"drained": []})) == 1


def test_host_that_cannot_be_compared_is_reported_with_the_cause() -> None:
    assert status_report.fleet_problems({"app1": app_server() | {"incomparable": "'colour' is undefined"}}) == [
        "app1: it can't be compared with the inventory: 'colour' is undefined"
    ]


def test_hosts_that_were_not_compared_are_named() -> None:
    (sentence,) = status_report.fleet_problems({"app1": app_server()}, ["edge1", "edge2"])
    assert "The hosts were not compared with the inventory: edge1, edge2" in sentence
    assert "private_address" in sentence


def test_words_of_the_application_have_no_secrets(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = layout.Application("links", str(tmp_path))
    for folder in (app.path("run/baton/links"), app.state, app.path("etc/links/secrets")):
        folder.mkdir(parents=True)
    app.path("etc/links/secrets/DATABASE_URL").write_text("postgresql://links:hunter2@db/links")
    reload = {"outcome": "failed", "error": "can't connect to postgresql://links:hunter2@db/links"}
    app.status_file(app.service).write_text(json.dumps({"workers": [], "reload": reload}))
    answer = health_check.Answer("answers 503: hunter2 is refused")
    monkeypatch.setattr(health_check, "answer_of", lambda _: answer)
    health = health_check.Health("/health", "/run/links/web.sock", "links.example.org")
    found = status.serving(app, health)
    assert (found["last_reload"]["outcome"], found["health"]) == ("failed", "answers 503: *** is refused")
    assert "hunter2" not in json.dumps(found)
