"""Ansible filter that turns the results of baton_logs into lines for people."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import ansible.module_utils

# the `module_utils` setting of ansible.cfg holds for modules alone
ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[1] / "module_utils"))

from ansible.module_utils.baton import journal  # noqa: E402


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names as used in playbooks."""
        return {"baton_journal_merged": journal.merged}
