"""Baton's version, which is recorded with each change."""

from __future__ import annotations

VERSION = "0.2.0"  # same as in galaxy.yml and pyproject.toml
