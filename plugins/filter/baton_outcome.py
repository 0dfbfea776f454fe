"""Ansible filters that tell how a change of the whole fleet went."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import outcome  # noqa: E402


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {
            "baton_failure": outcome.failure,
            "baton_troubles": outcome.troubles,
            "baton_switched": outcome.switched,
            "baton_hosts": outcome.hosts,
            "baton_summary": outcome.summary,
        }
