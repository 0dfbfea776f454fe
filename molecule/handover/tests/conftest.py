"""Fixtures that prepare the hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.playbooks import Playbooks

from .support import FLEET, FOLDER, INVENTORY, SCENARIO, act, both, host, in_parallel

# copies of the release under other ids; both can be held while they boot
COPY, SECOND = "c" * 16, "d" * 16


@pytest.fixture(scope="session", autouse=True)
def prepared() -> None:
    """Copies act.py to the hosts, and the module activate as Ansible sends it."""
    temporary = "/tmp/baton-handover"
    copied = f"src={SCENARIO}/tests/on_host/ dest={FOLDER}/ mode=0700"
    FLEET.ad_hoc("fleet", "ansible.builtin.copy", copied).check_status()
    # check mode changes nothing, and keeps the files that were sent
    keeping = Playbooks(INVENTORY, {"ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_PIPELINING": "0"})
    options = ["--check", "-e", f"ansible_remote_tmp={temporary}"]
    keeping.ad_hoc("fleet", "baton.web.activate", "name=bench", *options).check_status()
    in_parallel(
        lambda name: host(name).check_output(
            f"cd {temporary}/*/ && python3 AnsiballZ_activate.py explode && rm -rf {FOLDER}/module && "
            f"cp -r . {FOLDER}/module && rm -rf {temporary}"
        )
    )


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, good: str) -> Iterator[None]:
    """Restores the hosts after a failed test."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        both("recover", release=good)


@pytest.fixture(scope="session")
def good(prepared: None) -> str:  # noqa: ARG001
    """The deployed release; the hosts also get copies of it."""
    for release in (COPY, SECOND):
        both("copy", release=release)
    return str(act("bookworm", "state")["current"])
