"""The benchmark of reloads: the order of its phases, and what its page says about the aims."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
import yaml

from tests.bench.reload import measure, plan, report
from tests.support.traffic import Summary

SERVERS = ("baton", "gunicorn-uvicorn", "uvicorn")


def phase(server: str, kind: str, series: str, p99: float, p999: float, **failed: int) -> measure.Phase:
    by_kind = {"get": {"sent": 100, "failed": 0}}
    for name, count in failed.items():
        by_kind[name] = {"sent": 100, "failed": count}
    causes = {"HTTP 502": sum(failed.values())} if failed else {}
    traffic = Summary(sent=100, failed=causes, by_kind=by_kind, p50=1.0, p99=p99, p999=p999, max=p999)
    reloads: list[dict[str, Any]] = [{"ok": True, "seconds": 1.0}] if kind == "reloads" else []
    return measure.Phase(server, kind, series, 0.0, traffic, reloads)


def page(*phases: measure.Phase) -> str:
    machine = {"cores": "2", "processor": "x86", "memory": "8 GiB", "os": "Debian", "kernel": "6.1"}
    titles = {name: name.capitalize() for name in SERVERS}
    whole = dataclasses.asdict(plan.full(100))
    return report.markdown(
        report.Document(whole, 0.0, 60, "make bench-reload", machine, {"os": "Debian"}, 2, titles, list(phases), [])
    )


@pytest.mark.parametrize(
    ("p99", "p999", "said"),
    [
        (11.0, 29.0, "1.1 times that of the quiet phase: reached; a p99.9 below that of every other server: reached."),
        (11.5, 30.0, "1.1 times that of the quiet phase: missed; a p99.9 below that of every other server: missed."),
    ],
)
def test_page_says_whether_the_aims_are_reached(p99: float, p999: float, said: str) -> None:
    text = page(
        phase("baton", "quiet", "sleep-1", 20.0, 30.0),
        phase("baton", "quiet", "services", 10.0, 20.0),
        phase("baton", "reloads", "services", p99, p999),
        phase("gunicorn-uvicorn", "reloads", "services", 900.0, 1000.0, get=3),
        phase("uvicorn", "reloads", "services", 12.0, 30.0, get=2, feed=1),
    )
    assert said in text
    assert "**Delay**, reference application on PostgreSQL and Redis: 99 of 100 requests" in text
    assert "30.0 ms (Uvicorn, 2 requests failed, 1 WebSockets cut)" in text
    assert text.count("The aims:") == 1


def test_series_without_a_quiet_phase_is_compared_with_that_before_it() -> None:
    text = page(
        phase("baton", "quiet", "sleep-1", 10.0, 20.0),
        phase("baton", "reloads", "cpu-1", 15.0, 20.0),
        phase("uvicorn", "reloads", "cpu-1", 15.0, 20.0),
        phase("baton", "quiet", "services", 40.0, 50.0),
        phase("baton", "reloads", "services", 42.0, 50.0),
        phase("uvicorn", "reloads", "services", 42.0, 50.0),
    )
    assert "This p99 is 1.50 times that of the quiet phase (10.0 ms)." in text
    assert "This p99 is 1.05 times that of the quiet phase (40.0 ms)." in text


def test_batons_quiet_phase_is_in_every_turn_and_those_of_others_in_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str]] = []
    for kind in ("quiet", "reloads"):
        monkeypatch.setattr(measure.Conditions, kind, lambda _, server, kind=kind: measured.append((server.name, kind)))
    series = dataclasses.replace(plan.SERVICES, reloads=1)
    whole = plan.Plan("two", (plan.Part(plan.LINKS, (series,)),), turns=2)
    conditions: Any = measure.Conditions(whole, None, plan.LINKS, series)  # type: ignore[arg-type]
    list(conditions.measure())
    names = [server.name for server in plan.LINKS.servers]
    assert measured == [
        *((name, kind) for name in names for kind in ("quiet", "reloads")),
        *((name, "reloads") for name in reversed(names[1:])),
        ("baton", "quiet"),
        ("baton", "reloads"),
    ]


@pytest.mark.parametrize("application", [part.application for part in plan.full(1).parts])
def test_inventory_agrees_with_the_plan(application: plan.Application) -> None:
    settings = yaml.safe_load((application.inventory / "group_vars/all.yml").read_text())
    assert settings["app_name"] == application.name
    assert settings["nginx_site_server_names"] == [application.servers[0].host]
    assert settings["app_service_health_host"] == application.servers[0].host
    assert pathlib.Path(application.inventory, settings["app_source"]).is_dir()
