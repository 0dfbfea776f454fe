"""Makes Baton's module_utils importable by the name that Ansible gives them."""

from __future__ import annotations
