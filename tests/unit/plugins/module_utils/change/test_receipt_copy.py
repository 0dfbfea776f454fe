"""The copies of receipts that a host keeps."""

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.app.layout import Application
from ansible_collections.baton.web.plugins.module_utils.change import receipt_copy


@pytest.fixture
def app(tmp_path: pathlib.Path) -> Application:
    return Application("shop", str(tmp_path))


def test_a_copy_is_for_root_alone_and_leaves_nothing_beside_it(app: Application) -> None:
    receipt_copy.keep(app, "20251125T120000Z-shop-r1", "{}\n")
    receipt_copy.keep(app, "20251125T120000Z-shop-r1", '{"format": 1}\n')
    (path,) = (app.state / "receipts").iterdir()
    assert path.name == "20251125T120000Z-shop-r1.json"
    assert path.read_text() == '{"format": 1}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_newest_twenty_stay(app: Application) -> None:
    for minute in range(23):
        receipt_copy.keep(app, f"20251125T12{minute:02}00Z-shop-r1", "{}\n")
    names = sorted(path.name for path in (app.state / "receipts").iterdir())
    assert len(names) == 20
    assert names[0] == "20251125T120300Z-shop-r1.json"
    assert names[-1] == "20251125T122200Z-shop-r1.json"
