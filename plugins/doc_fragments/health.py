"""Documentation that the modules share: the application's health page."""

from __future__ import annotations


class ModuleDocFragment:
    """The page, and of the action group C(baton.web.health) where it is asked for."""

    DOCUMENTATION = r"""
options:
  health_path:
    description: Page that must answer below 400; empty for none.
    type: str
    default: ""
  health_host:
    description: Host header of that request.
    type: str
    default: localhost
"""

    LISTEN = r"""
options:
  health_listen:
    description: Unix socket or ADDRESS:PORT to ask for it.
    type: str
    default: ""
"""
