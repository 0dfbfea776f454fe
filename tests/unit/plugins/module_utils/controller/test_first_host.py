"""A process with `hosts: first` never runs on two hosts, whatever changes in the inventory."""

from __future__ import annotations

import fnmatch
import pathlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.filter import first_host as filters
from ansible_collections.baton.web.plugins.module_utils.controller import first_host
from ansible_collections.baton.web.plugins.module_utils.controller.first_host import Host

from tests.support.program import write_script

SERVERS = ["app1", "app2", "app3"]
WANTS = "/etc/systemd/system/multi-user.target.wants"
# for both of NAMES
STOP = (
    "systemctl disable --now links-nightly.timer; systemctl stop 'links-beat@*.service' links-nightly.service; "
    f"rm -f {WANTS}/links-beat@*.service /opt/links/processes/beat-*"
)
NAMES = ["app_processes.beat", "app_schedules.nightly"]
PROCESSES = {"worker": {}, "beat": {"hosts": "first"}}
SCHEDULES: dict[str, Any] = {"nightly": {}}
IDLE = Host(asked=True)
LIMITED = Host()
ENDED = Host(asked=True, starts_at_boot=NAMES)
RUNS = Host(asked=True, runs=["app_processes.worker", *NAMES])
TICKER = "app_processes.ticker"  # the earlier name of beat
OLD = "app_schedules.old"  # the earlier name of nightly


def noted(host: str, runs: Host = IDLE) -> Host:
    return Host(asked=True, recorded=host, runs=runs.runs)


def decide(
    servers: list[str], hosts: dict[str, Host], wanted: str = "", names: Sequence[str] = NAMES
) -> tuple[str, list[str]]:
    return (
        first_host.choose(servers, hosts, names, wanted),
        first_host.problems("links", servers, hosts, names, first_host.hosts_of(PROCESSES, SCHEDULES), wanted),
    )


@pytest.mark.parametrize(
    ("servers", "hosts", "first"),
    [
        (SERVERS, {}, "app1"),
        (SERVERS, dict.fromkeys(SERVERS, IDLE), "app1"),
        # the group has another order, or a new host before the others
        (["app2", "app1"], {"app1": RUNS, "app2": IDLE}, "app1"),
        (["app0", *SERVERS], {"app0": IDLE, "app1": noted("app1", RUNS), "app2": noted("app1")}, "app1"),
        # --limit excludes the host
        (["app2", "app1"], {"app1": LIMITED, "app2": noted("app1")}, "app1"),
        (SERVERS, {"app2": IDLE, "app3": IDLE}, "app1"),
        # it is down, between two generations, or suspended
        (["app2", "app1"], {"app1": noted("app1"), "app2": noted("app1")}, "app1"),
        # it has left the group and has been stopped
        (["app2", "app3"], {"app1": IDLE, "app2": noted("app1"), "app3": noted("app1")}, "app2"),
        # until now, it ran on all hosts
        (SERVERS, dict.fromkeys(SERVERS, RUNS), "app1"),
        # what would start at the next boot of another host is removed there
        (SERVERS, {"app1": ENDED, "app2": noted("app2", RUNS), "app3": noted("app2")}, "app2"),
        # it has ended on its host
        (SERVERS, {"app1": IDLE, "app2": Host(True, "app2", (), NAMES), "app3": noted("app2")}, "app2"),
        # an older note, by a host that --limit had excluded
        (SERVERS, {"app1": noted("app1"), "app2": noted("app2", RUNS), "app3": noted("app2")}, "app2"),
    ],
)
def test_process_stays_on_its_host_or_starts_on_the_first(
    servers: list[str], hosts: dict[str, Host], first: str
) -> None:
    assert decide(servers, hosts) == (first, [])


@pytest.mark.parametrize(
    ("servers", "hosts", "wanted", "words"),
    [
        (SERVERS, dict.fromkeys(SERVERS, IDLE), "app9", 'app_first_host is "app9", which is not a host of'),
        # the operator moves it
        (
            SERVERS,
            {"app1": RUNS, "app2": IDLE, "app3": IDLE},
            "app2",
            "app1 runs app_processes.beat, app_schedules.nightly (now, or after its next boot), which must not run on "
            "app2 (hosts: first) at the same time. Stop it first with playbooks/configure.yml -e app_first_host=none; "
            "then run playbooks/configure.yml -e app_first_host=app2.",
        ),
        # it has ended, but would start at the next boot
        (SERVERS, {"app1": ENDED, "app2": IDLE, "app3": IDLE}, "app2", "app1 runs app_processes.beat, app_schedules"),
        # also if the chosen host would start it as well
        (SERVERS, {"app1": RUNS, "app2": ENDED, "app3": IDLE}, "app2", "app1 runs app_processes.beat, app_schedules"),
        # it is still draining
        (
            SERVERS,
            {"app1": noted("", Host(True, "", NAMES[:1])), "app2": IDLE, "app3": IDLE},
            "app3",
            "app1 runs app_processes.beat (",
        ),
        (
            ["app2", "app1"],
            {"app1": LIMITED, "app2": noted("app1")},
            "app2",
            "app_processes.beat, app_schedules.nightly (hosts: first) may run on app1",
        ),
        # it still runs, on a host that left the group but not the inventory
        (
            ["app2"],
            {"app1": RUNS, "app2": noted("app1")},
            "",
            "which must not run on app2 (hosts: first) at the same time, and is no longer in app_servers. Stop it "
            f"there as root: `{STOP}`.",
        ),
        (
            ["app2"],
            {"app1": RUNS, "app2": noted("app1")},
            "app2",
            "app1 runs app_processes.beat, app_schedules.nightly",
        ),
        # also what would start there while the chosen host runs it
        (
            ["app2"],
            {"app1": ENDED, "app2": noted("app2", RUNS)},
            "",
            "app_schedules.nightly (now, or after its next boot)",
        ),
        # its host is lost, and no longer in the inventory
        (
            ["app2", "app3"],
            {"app2": noted("app1"), "app3": noted("app1")},
            "",
            "may run on app1, which this run doesn't check, because it is no longer in the inventory. Make sure that "
            f"it is off, or stop them there as root: `{STOP}`. Then run playbooks/configure.yml -e "
            "app_first_host=app2.",
        ),
        # one kind alone
        (["app2"], {"app1": Host(True, "", NAMES[1:]), "app2": IDLE}, "", "links-nightly.timer; systemctl stop links-"),
        (["app2"], {"app1": Host(True, "", NAMES[:1]), "app2": IDLE}, "", "`systemctl stop 'links-beat@*.service'; rm"),
        # it has another name, and the operator moves it at the same time
        (
            SERVERS,
            {"app1": noted("app1", Host(runs=[TICKER, OLD])), "app2": IDLE, "app3": IDLE},
            "app2",
            "app1 runs app_processes.ticker, app_schedules.old (now, or after its next boot), which the settings no "
            "longer have: under another name, it may start on app2 (hosts: first). Stop it first with "
            "playbooks/configure.yml -e app_first_host=none; then run playbooks/configure.yml -e app_first_host=app2.",
        ),
        (SERVERS, {"app1": Host(True, "app1", (), [TICKER]), "app2": IDLE, "app3": IDLE}, "app2", "app1 runs app_pro"),
        # or its host leaves the group
        (
            ["app2"],
            {"app1": noted("", Host(runs=[TICKER])), "app2": noted("app1")},
            "",
            "it may start on app2 (hosts: first), and is no longer in app_servers. Stop it there as root: `systemctl "
            "stop 'links-ticker@*.service'; rm -f",
        ),
        # only a new host, before all others, is set up
        (
            ["app0", "app1"],
            {"app0": IDLE, "app1": LIMITED},
            "",
            "may run on app1, which this run doesn't check. Run this",
        ),
    ],
)
def test_risk_of_running_twice_is_a_problem_with_its_fix(
    servers: list[str], hosts: dict[str, Host], wanted: str, words: str
) -> None:
    _, (sentence,) = decide(servers, hosts, wanted)
    assert words in sentence


def test_printed_commands_stop_everything_on_the_lost_host_also_after_a_boot(tmp_path: pathlib.Path) -> None:
    """Run by a shell, with the real `systemctl disable`; it can't stop units without a running systemd."""
    units, wants, links = (tmp_path / path for path in ("etc/systemd/system", WANTS[1:], "opt/links/processes"))
    for folder in (wants, links, tmp_path / "bin"):
        folder.mkdir(parents=True)
    for file in ("links-beat@.service", "links-beat_x@.service", "links-nightly.service", "links-nightly.timer"):
        (units / file).write_text("[Service]\nExecStart=true\n")
    enabled = ["links-beat@7-1.service", "links-beat_x@1-1.service", "links-nightly.timer", "links.service"]
    for unit in enabled:
        (wants / unit).symlink_to(f"/etc/systemd/system/{re.sub('@.*[.]', '@.', unit)}")
    for name in ("beat-7-1", "beat_x-1-1"):
        (links / name).symlink_to("../releases/aaaa")
    stopped = tmp_path / "stopped"
    write_script(
        tmp_path / "bin/systemctl",
        f'verb=$1; shift; [ "$1" != --now ] || shift; printf "%s\\n" "$@" >> {stopped}; '
        f'[ "$verb" = stop ] || exec {shutil.which("systemctl")} --root={tmp_path} "$verb" "$@"',
    )
    _, (sentence,) = decide(["app2"], {"app1": RUNS, "app2": noted("app1")})
    printed = re.sub(r"(?<= )/(?=etc/|opt/)", f"{tmp_path}/", sentence.split("`")[1])
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = subprocess.run(["bash", "-ec", printed], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in wants.iterdir()) == ["links-beat_x@1-1.service", "links.service"]
    assert [path.name for path in links.iterdir()] == ["beat_x-1-1"]
    loaded = ["links-beat@7-1.service", "links-beat_x@1-1.service", "links-nightly.service", "links-nightly.timer"]
    patterns = stopped.read_text().split()
    assert [unit for unit in loaded if any(fnmatch.fnmatch(unit, one) for one in patterns)] == [
        "links-beat@7-1.service",
        "links-nightly.service",
        "links-nightly.timer",
    ]


@pytest.mark.parametrize(
    ("servers", "hosts", "wanted"),
    [
        # the steps of a move: stopped everywhere, then started
        (SERVERS, {"app1": RUNS, "app2": IDLE, "app3": IDLE}, "none"),
        (SERVERS, dict.fromkeys(SERVERS, IDLE), "app2"),
        # a type with another name, where it is, and after it was stopped
        (SERVERS, {"app1": noted("app1", Host(runs=[TICKER])), "app2": noted("app1"), "app3": IDLE}, "app1"),
        (SERVERS, {"app1": noted("app1", Host(runs=[TICKER])), "app2": noted("app1"), "app3": IDLE}, "none"),
        # what ran on all hosts was removed
        (SERVERS, dict.fromkeys(SERVERS, noted("app1", Host(runs=[TICKER, OLD]))), "app2"),
        # a removed type of other hosts than the previous first one
        (SERVERS, {"app1": noted("app1"), "app2": IDLE, "app3": Host(True, "", [TICKER])}, "app2"),
        # the operator confirms that the lost host is off
        (["app2", "app3"], {"app2": noted("app1"), "app3": noted("app1")}, "app3"),
        # --limit excludes the chosen host, so nothing is started
        (SERVERS, {"app2": IDLE}, "app1"),
    ],
)
def test_operators_choice_is_used(servers: list[str], hosts: dict[str, Host], wanted: str) -> None:
    assert decide(servers, hosts, wanted) == ("" if wanted == "none" else wanted, [])


def test_no_host_is_chosen_if_no_process_needs_one() -> None:
    assert decide(["app2"], {"app2": noted("app1")}, names=[]) == ("", [])


@pytest.mark.parametrize("settings", [None, "x", ["x"], {"x": None, "y": "z"}])
def test_invalid_settings_are_ignored(settings: Any) -> None:
    assert first_host.on_first_host(settings, settings) == []


def test_processes_of_one_host_follow_from_the_settings() -> None:
    processes = {"worker": {}, "beat": {"hosts": "first"}}
    schedules = {"nightly": {}, "everywhere": {"hosts": "all"}}
    assert first_host.on_first_host(processes, schedules) == NAMES


def test_invalid_facts_of_hosts_are_ignored() -> None:
    hostvars = {
        "app1": {},
        "app2": {"ansible_facts": {"app_runs": ["app_processes.beat", 7], "app_first_host": "app2"}},
        "app3": {
            "ansible_facts": {"app_runs": "app_processes.beat", "app_first_host": ["app1"], "app_starts_at_boot": 7}
        },
    }
    processes = {"beat": {"hosts": "first"}}
    assert filters.choose(hostvars, SERVERS, processes, {}) == "app2"
    assert filters.problems(hostvars, "links", SERVERS, processes, {}, "app3") != []
    assert filters.choose(hostvars, SERVERS, {}, {}) == ""
