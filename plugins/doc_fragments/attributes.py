"""Documentation that the modules share: check mode and diffs."""

from __future__ import annotations


class ModuleDocFragment:
    """A module names it, and says what it supports."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and say what would change, without changing it.
  diff_mode:
    description: Says what changed, or would in check mode, when in diff mode.
"""
