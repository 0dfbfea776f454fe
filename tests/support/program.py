"""Programs: Python files that belong to no package, and scripts that stand in for a host's commands."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from typing import Any


def load(path: pathlib.Path, name: str) -> Any:
    """Load a file as a module of this name. Raises whatever its code raises."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look up their module
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write_script(path: pathlib.Path, body: str) -> pathlib.Path:
    """Write an executable shell script; return its path."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path
