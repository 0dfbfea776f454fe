"""Baton's version, as it is noted with each change."""

from __future__ import annotations

VERSION = "0.2.0"  # galaxy.yml and pyproject.toml have the same
