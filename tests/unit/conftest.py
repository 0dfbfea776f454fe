"""Makes Baton's module_utils importable by the name that Ansible gives them, and `tests.support` by its own."""

from __future__ import annotations

import pathlib
import sys

import ansible.module_utils

PROJECT = pathlib.Path(__file__).parents[2]

sys.path.insert(0, str(PROJECT))
ansible.module_utils.__path__.append(str(PROJECT / "plugins" / "module_utils"))
