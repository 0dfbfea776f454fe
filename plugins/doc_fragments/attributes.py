"""Documentation that the modules share: check mode and diffs."""

from __future__ import annotations


class ModuleDocFragment:
    """For a module that lists what it supports."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Supports check mode, which reports changes without making them.
  diff_mode:
    description: Reports what changed, or would change in check mode, in diff mode.
"""
