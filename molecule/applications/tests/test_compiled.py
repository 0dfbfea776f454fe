"""A package that needs a compiler and headers, which are on the hosts set aside for that and nowhere else."""

from __future__ import annotations

import pytest

from .conftest import Deployed
from .support import SOLO, host


@pytest.mark.parametrize("name", SOLO)
def test_what_the_builder_made_is_served(compiled: Deployed, name: str) -> None:
    said = compiled.says(name)
    assert said["psycopg2"].startswith("2.9.10")
    assert (said["netifaces"], said["posix_ipc"]) == ("0.11.0", "1.0.5")


@pytest.mark.parametrize("name", SOLO)
def test_what_needs_no_compiler_was_built_on_the_controller(compiled: Deployed, name: str) -> None:
    assert compiled.says(name)["docopt"] == "0.6.2"


def test_each_kind_of_host_has_a_wheel_of_its_own(compiled: Deployed) -> None:
    first, second = (compiled.release(name)["target"] for name in SOLO)
    assert first != second


@pytest.mark.parametrize("name", SOLO)
def test_the_headers_are_not_on_the_hosts_that_serve(compiled: Deployed, name: str) -> None:
    assert compiled.first.status == 0
    assert not host(name).package("libpq-dev").is_installed


def test_built_once_for_good(compiled: Deployed) -> None:
    """Only the controller's cache has the wheels: the builders aren't asked again."""
    again = compiled.deploy()
    assert again.changed == [0, 0, 0, 0]
    assert "Build netifaces" not in again.words


def test_without_a_host_to_build_on_the_message_names_the_package_and_the_settings(compiled: Deployed) -> None:
    before = {name: compiled.workers(name) for name in SOLO}
    # of another version, so that none is built yet
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
