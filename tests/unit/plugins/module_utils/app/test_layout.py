"""The layout: where an application's files and units are."""

from __future__ import annotations

import json
import pathlib

from ansible_collections.baton.web.plugins.module_utils.app import layout


def test_current_release_is_the_target_of_the_symlink(tmp_path: pathlib.Path) -> None:
    app = layout.Application("shop", str(tmp_path))
    assert layout.current(app) is None
    app.releases.mkdir(parents=True)
    app.current.symlink_to("releases/0123456789abcdef")
    assert layout.current(app) == "0123456789abcdef"


def test_every_unit_belongs_to_one_process_type() -> None:
    app = layout.Application("shop")
    units = [unit for process in app.processes for unit in (*process.running, *process.templates)]
    assert {app.service, app.socket, app.bridge} <= set(units)
    assert len(units) == len(set(units))
    assert len({process.name for process in app.processes}) == len(app.processes)


def test_served_releases_are_read_from_the_record(tmp_path: pathlib.Path) -> None:
    app = layout.Application("shop", str(tmp_path))
    assert layout.served(app) == []
    app.record.parent.mkdir(parents=True)
    app.record.write_text(json.dumps({"served": ["bbbb", "aaaa"]}))
    assert layout.served(app) == ["bbbb", "aaaa"]
