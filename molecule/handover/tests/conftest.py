"""What the tests find on the hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.playbooks import Playbooks

from .support import FLEET, FOLDER, INVENTORY, SCENARIO, act, at_once, both, host

# the same release under other names; both can be held as they boot
COPY, SECOND = "c" * 16, "d" * 16


@pytest.fixture(scope="session", autouse=True)
def prepared() -> None:
    """Puts act.py on the hosts, and beside it activate just as Ansible would send it."""
    temporary = "/tmp/baton-handover"
    copied = f"src={SCENARIO}/tests/on_host/ dest={FOLDER}/ mode=0700"
    FLEET.ad_hoc("fleet", "ansible.builtin.copy", copied).check_status()
    # check mode: nothing happens, and what was sent stays
    keeping = Playbooks(INVENTORY, {"ANSIBLE_KEEP_REMOTE_FILES": "1", "ANSIBLE_PIPELINING": "0"})
    options = ["--check", "-e", f"ansible_remote_tmp={temporary}"]
    keeping.ad_hoc("fleet", "baton.web.activate", "name=bench", *options).check_status()
    at_once(
        lambda name: host(name).check_output(
            f"cd {temporary}/*/ && python3 AnsiballZ_activate.py explode && rm -rf {FOLDER}/module && "
            f"cp -r . {FOLDER}/module && rm -rf {temporary}"
        )
    )


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest, good: str) -> Iterator[None]:
    """Has a test that fails leave the hosts as it found them."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        both("recover", release=good)


@pytest.fixture(scope="session")
def good(prepared: None) -> str:  # noqa: ARG001
    """The release that is deployed; copies of it are there too."""
    for release in (COPY, SECOND):
        both("copy", release=release)
    return str(act("bookworm", "state")["current"])
