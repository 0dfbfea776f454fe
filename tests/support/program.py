"""A file of Python that is no module of a package: loaded by its path."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from typing import Any


def load(path: pathlib.Path, name: str) -> Any:
    """The module of a file, by the name that it is to have. Raises what its code does."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # its dataclasses look themselves up
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
