"""Documentation that the modules share: the application's health page."""

from __future__ import annotations


class ModuleDocFragment:
    """The page; the action group C(baton.web.health) sets where to request it."""

    DOCUMENTATION = r"""
options:
  health_path:
    description: Page that must answer with a status below 400; empty for none.
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
    description: Unix socket or ADDRESS:PORT to request it from.
    type: str
    default: ""
"""
