"""The fleet, provisioned once with a first release."""

from __future__ import annotations

import pytest

from .shop import Fleet, Source


@pytest.fixture(scope="session")
def source() -> Source:
    """The source that the fleet deploys."""
    return Source()


@pytest.fixture(scope="session")
def fleet(source: Source) -> Fleet:
    """The hosts, serving the first release."""
    source.change()
    fleet = Fleet()
    fleet.succeed("site.yml")
    fleet.release()
    return fleet
