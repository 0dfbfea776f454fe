"""Collections are searched in the path that Ansible is configured with."""

from __future__ import annotations

import json
import pathlib

from tests.support.playbooks import Playbooks


def test_collection_in_the_configured_path_is_found(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "teams/ansible_collections/some/thing"
    folder.mkdir(parents=True)
    manifest = {"collection_info": {"namespace": "some", "name": "thing", "version": "1.2.3"}}
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    requirements = {"collections": [{"name": "some.thing", "version": ">=1.2"}]}
    settings = tmp_path / "ansible.cfg"
    checkout = pathlib.Path(__file__).parents[4] / "collections"
    settings.write_text(f"[defaults]\ncollections_path = {tmp_path / 'teams'}:{checkout}\n")
    play = {"tasks": [{"baton.web.controller_info": requirements}]}
    runner, playbook = Playbooks.written(tmp_path, play, environment={"ANSIBLE_CONFIG": str(settings)})
    runner.succeed(playbook)
