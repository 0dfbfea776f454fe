"""Ansible filters that look for settings that nothing reads, or whose values can't be."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ansible.module_utils
from ansible.module_utils.common.yaml import yaml_load

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import settings  # noqa: E402


def unknown_settings(hostvars: Mapping[str, Mapping[str, Any]], roles: str) -> list[str]:
    """Sentences about variables of the hosts that look like settings and are none; only their names are looked at."""
    options = {
        path.parents[1].name: settings.options_of(yaml_load(path.read_text(encoding="utf-8")))
        for path in sorted(pathlib.Path(roles).glob("*/meta/argument_specs.yml"))
    }
    found: list[str] = settings.problems({host: list(hostvars[host]) for host in hostvars}, options)
    return found


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"baton_unknown_settings": unknown_settings, "baton_wrong_settings": settings.wrong}
