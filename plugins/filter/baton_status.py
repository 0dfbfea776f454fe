"""Ansible filters that turn the results of baton_status into words for people."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import status  # noqa: E402


class FilterModule:
    """Filters by name; each takes a mapping of host to its result."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"baton_status_table": status.table, "baton_status_problems": status.fleet_problems}
