"""Makes this checkout the collection baton.web, as ansible.cfg does for Ansible."""

from __future__ import annotations

import pathlib

from ansible.plugins.loader import init_plugin_loader

init_plugin_loader([str(pathlib.Path(__file__).parents[2] / "collections")])
