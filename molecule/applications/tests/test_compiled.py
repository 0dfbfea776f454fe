"""Packages that need a compiler and headers, which only the build hosts have."""

from __future__ import annotations

import pytest

from .conftest import Deployed
from .support import SOLO, host


@pytest.mark.parametrize("name", SOLO)
def test_packages_from_builder_are_served(compiled: Deployed, name: str) -> None:
    answer = compiled.get_json(name)
    assert answer["psycopg2"].startswith("2.9.10")
    assert (answer["netifaces"], answer["posix_ipc"]) == ("0.11.0", "1.0.5")


@pytest.mark.parametrize("name", SOLO)
def test_pure_python_package_is_built_on_controller(compiled: Deployed, name: str) -> None:
    assert compiled.get_json(name)["docopt"] == "0.6.2"


def test_each_kind_of_host_has_its_own_wheel(compiled: Deployed) -> None:
    first, second = (compiled.release(name)["target"] for name in SOLO)
    assert first != second


@pytest.mark.parametrize("name", SOLO)
def test_app_servers_have_no_headers(compiled: Deployed, name: str) -> None:
    assert compiled.first.status == 0
    assert not host(name).package("libpq-dev").is_installed


def test_second_deploy_builds_nothing(compiled: Deployed) -> None:
    """The wheels come from the controller's cache, without another build."""
    again = compiled.deploy()
    assert again.changed == [0, 0, 0, 0]
    assert "Build netifaces" not in again.words


def test_missing_builder_is_reported_with_settings(compiled: Deployed) -> None:
    before = {name: compiled.workers(name) for name in SOLO}
    # with another requirement and an empty cache, so that no wheel is built yet
    done = compiled.play(
        "playbooks/deploy.yml",
        app_release_builder=[],
        app_release_extra_requirements=["idna==3.10"],
        app_release_cache_dir=str(compiled.authority.parent / "cache"),
    )
    assert done.status != 0
    for word in ("psycopg2", "app_release_builder", "app_release_build"):
        assert word in done.words, done.output
    assert {name: compiled.workers(name) for name in SOLO} == before
