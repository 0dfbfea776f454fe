"""Folders that others than root must read, under any umask of root; and messages."""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Iterator

import pytest
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError, make_folder

PLUGINS = pathlib.Path(__file__).resolve().parents[5] / "plugins"


@pytest.fixture(params=[0o077, 0o022, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_folder_has_its_mode_and_its_parents_can_be_traversed(tmp_path: pathlib.Path) -> None:
    make_folder(tmp_path / "baton/app/receipts", 0o700)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"baton": 0o755, "app": 0o755, "receipts": 0o700}


def test_existing_folder_keeps_its_mode(tmp_path: pathlib.Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o711)
    make_folder(tmp_path / "kept", 0o700)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o711


def test_no_module_leaves_parent_folders_to_the_umask() -> None:
    """`parents=True` creates parents with the umask's mode, whatever the mode of the last folder."""
    subpackages = ("activation", "app", "change", "edge", "host", "release")
    paths = [path for name in subpackages for path in (PLUGINS / "module_utils" / name).glob("*.py")]
    paths += (PLUGINS / "modules").glob("*.py")
    found = [
        f"{path.name}: {line.strip()}"
        for path in paths
        for line in path.read_text().splitlines()
        if ("parents=True" in line or "makedirs(" in line) and "0o700" not in line
    ]
    # on the controller, or as the application's user in its own folder
    exempt = ("receipt.py", "state_files.py", "wheel_build.py", "staging.py: destination", "staging.py: target")
    assert [line for line in found if not line.startswith(exempt)] == []


def test_message_names_source_files_instead_of_temporary_copies() -> None:
    error = BatonError(
        "The line 'x' in /tmp/baton-artifact-ab_12x9z/src/svc/requirements.txt is wrong",
        "See file:///var/tmp/baton-resolve-ab_12x9z/source/lib and /srv/baton-artifact-x/y",
    )
    assert error.cause == "The line 'x' in svc/requirements.txt is wrong"
    assert error.fix == "See lib and y"


@pytest.mark.parametrize("word", ["a", "/", "/baton-artifact-", "file:/", "://"])
def test_long_message_is_processed_in_linear_time(word: str) -> None:
    """Quadratic time would mean days here."""
    text = word * (5_000_000 // len(word))
    assert BatonError(text, "").cause in (text, text.strip())
