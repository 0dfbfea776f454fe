"""What the tests find on the hosts."""

from __future__ import annotations

import pytest

from .support import FOLDER, SCENARIO, act, ansible, at_once, both, host

COPY = "c" * 16  # the same release under another name


@pytest.fixture(scope="session", autouse=True)
def prepared() -> None:
    """Puts act.py on the hosts, and beside it baton_activate just as Ansible would send it."""
    temporary = "/tmp/baton-handover"
    ansible("-m", "ansible.builtin.copy", "-a", f"src={SCENARIO}/tests/on_host/ dest={FOLDER}/ mode=0700")
    # check mode: nothing happens, and what was sent stays
    ansible("-m", "baton_activate", "-a", "name=bench", "--check", "-e", f"ansible_remote_tmp={temporary}")
    at_once(
        lambda name: host(name).check_output(
            f"cd {temporary}/*/ && python3 AnsiballZ_baton_activate.py explode && rm -rf {FOLDER}/module && "
            f"cp -r . {FOLDER}/module && rm -rf {temporary}"
        )
    )


@pytest.fixture(scope="session")
def good(prepared: None) -> str:  # noqa: ARG001
    """The release that is deployed; a copy of it is there too."""
    both("copy", release=COPY)
    return str(act("bookworm", "state")["current"])
