from __future__ import annotations

import pathlib

from ansible_collections.baton.web.plugins.module_utils.host import disk


def test_nearest_existing_parent_represents_a_missing_folder(tmp_path: pathlib.Path) -> None:
    assert disk.existing(tmp_path / "a" / "b") == tmp_path
    assert disk.existing(pathlib.Path("/")) == pathlib.Path("/")
