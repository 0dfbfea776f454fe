"""Makes Baton's module_utils importable by the name that Ansible gives them."""

from __future__ import annotations

import pathlib

import ansible.module_utils

ansible.module_utils.__path__.append(str(pathlib.Path(__file__).parents[2] / "plugins" / "module_utils"))
