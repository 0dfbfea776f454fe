"""The programs that tell a host's pending upgrades and the duration of its last boot."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.baton.web.plugins.module_utils.host import upgrades

from tests.support.program import write_script


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


@pytest.mark.parametrize(("container", "seconds"), [(True, 4.0), (False, 27.0)])
def test_duration_of_the_boot_is_systemds(programs: pathlib.Path, container: bool, seconds: float) -> None:
    times = {"FirmwareTimestampMonotonic": 12, "UserspaceTimestampMonotonic": 11, "FinishTimestampMonotonic": 15}
    lines = "\n".join(f"{name}={value}000000" for name, value in times.items())
    write_script(programs / "systemctl", f"echo \"$@\" > {programs}/asked; echo '{lines}'; echo rest")
    write_script(programs / "systemd-detect-virt", f'[ "$*" = "--container --quiet" ] && exit {int(not container)}')
    assert upgrades.boot() == seconds
    assert (programs / "asked").read_text().strip() == f"show --property={','.join(times)}"


def test_upgrades_are_simulated_in_english(programs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt's output is parsed."""
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    # its own PATH has the system's folders only
    monkeypatch.setattr(subprocess, "run", _run_in(programs, subprocess.run))
    write_script(programs / "apt-get", f'echo "$LC_ALL $PATH: $*"; cat > {programs}/input; echo broken >&2; exit 100')
    done = upgrades.simulate()
    assert done.stdout == "C /usr/sbin:/usr/bin:/sbin:/bin: --simulate --quiet dist-upgrade\n"
    assert (done.stderr, done.returncode, (programs / "input").read_text()) == ("broken\n", 100, "")


def _run_in(folder: pathlib.Path, really: Callable[..., Any]) -> Callable[..., Any]:
    """subprocess.run with the programs of a folder."""

    def run(words: list[str], **options: Any) -> Any:
        return really([str(folder / words[0]), *words[1:]], **options)

    return run
