"""Makes this checkout the collection baton.web, as ansible.cfg does, and has all runs try the same examples."""

from __future__ import annotations

import os
import pathlib

from ansible.plugins.loader import init_plugin_loader
from hypothesis import settings

init_plugin_loader([str(pathlib.Path(__file__).parents[2] / "collections")])

# the same examples in each run, so that a change is what makes one fail; more of them in `make test-long`
settings.register_profile("baton", derandomize=True, database=None, deadline=None)
settings.register_profile("long", settings.get_profile("baton"), max_examples=2000)
settings.load_profile("long" if os.environ.get("BATON_TEST_LONG") else "baton")
