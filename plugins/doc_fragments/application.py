"""Documentation that the modules share: the application."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of the action group C(baton.web.app)."""

    DOCUMENTATION = r"""
options:
  name:
    description: Name of the application.
    type: str
    required: true
"""
