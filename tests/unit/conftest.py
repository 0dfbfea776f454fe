"""Makes this checkout the collection baton.web, as ansible.cfg does, and fixes hypothesis's examples."""

from __future__ import annotations

import os
import pathlib

from ansible.plugins.loader import init_plugin_loader
from hypothesis import settings

init_plugin_loader([str(pathlib.Path(__file__).parents[2] / "collections")])

# the same examples in each run, so that only a change makes a test fail; `make test-long` runs more of them
settings.register_profile("baton", derandomize=True, database=None, deadline=None)
settings.register_profile("long", settings.get_profile("baton"), max_examples=2000)
settings.load_profile("long" if os.environ.get("BATON_TEST_LONG") else "baton")
