"""Makes Baton's module_utils importable by the name that Ansible gives them."""

from __future__ import annotations

import os

from hypothesis import settings

# the same examples in each run, so that a change is what makes one fail; more of them in `make test-long`
settings.register_profile("baton", derandomize=True, database=None, deadline=None)
settings.register_profile("long", settings.get_profile("baton"), max_examples=5000)
settings.load_profile("long" if os.environ.get("BATON_TEST_LONG") else "baton")
