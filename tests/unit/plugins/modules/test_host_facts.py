"""The application's facts from the module host_facts."""

from __future__ import annotations

import pathlib

from tests.support.playbooks import Playbooks


def test_absent_application_is_reported_only_if_requested(tmp_path: pathlib.Path) -> None:
    tasks = [
        {"baton.web.host_facts": {}},
        {"ansible.builtin.assert": {"that": "'app_release' not in ansible_facts"}},
        {"baton.web.host_facts": {"application": "no-such-application"}},
        {"ansible.builtin.assert": {"that": "[ansible_facts.app_release, ansible_facts.app_prepared] == ['', false]"}},
    ]
    runner, playbook = Playbooks.written(tmp_path, {"tasks": tasks})
    runner.succeed(playbook)
