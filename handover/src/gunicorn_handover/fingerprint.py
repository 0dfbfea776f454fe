"""What the master has in memory and a reload therefore can't replace: its Python, each module imported from outside the
standard library, and the .pth files that Python executed at startup.

A caller compares it with the next release: if the same files have the same content there, a HUP is sufficient.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import site
import sys
import sysconfig
from typing import Any

_NOT_HELD = {"__main__", "__config__"}  # the entry point; gunicorn.conf.py, which each reload reads again


class Fingerprint:
    """Collected as modules are imported: later, their paths may lead to files of another release."""

    def __init__(self) -> None:
        self._python = _python()
        self._path = list(sys.path)
        self._startup = _startup()
        self._files: dict[str, str] = {}
        self._distributions: dict[str, str] = {}
        self._seen: set[str] = set()
        self._library = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))

    def update(self) -> None:
        """Adds the modules that were imported since the last call."""
        new = sys.modules.keys() - self._seen
        if not new:
            return
        self._seen |= new
        # a name can't tell: a module is foreign if its file is outside the standard library, or in site-packages
        tops = set()
        for name in sorted(new):
            path = self._foreign_file(name)
            if path is None or path in self._files:
                continue
            self._files[path] = _sha256(path)
            tops.add(name.partition(".")[0])
        if tops:
            owners = importlib.metadata.packages_distributions()
            for top in tops:
                for distribution in owners.get(top, ()):
                    if distribution not in self._distributions:
                        self._distributions[distribution] = importlib.metadata.version(distribution)

    def _foreign_file(self, name: str) -> str | None:
        if name in _NOT_HELD:
            return None
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if not isinstance(path, str):
            return None
        path = os.path.abspath(path)
        if "/site-packages/" in path or "/dist-packages/" in path:
            return path
        return None if os.path.realpath(path).startswith(self._library) else path

    def as_dict(self, root: str | None) -> dict[str, Any]:
        """The value for handover.json. Paths below `root` (`/opt/<app>/current`) are relative to it."""
        prefix = root.rstrip(os.sep) + os.sep if root else None

        def relative(path: str) -> str:
            return path.removeprefix(prefix) if prefix else path

        files = {relative(path): digest for path, digest in sorted(self._files.items())}
        content: dict[str, Any] = {
            "python": self._python,
            "path": [relative(path) for path in self._path],
            "distributions": dict(sorted(self._distributions.items())),
            "files": files,
            "startup": {relative(folder): dict(found) for folder, found in self._startup.items()},
        }
        summary = hashlib.sha256(repr(content).encode()).hexdigest()
        return {**content, "sha256": summary}


def _startup() -> dict[str, dict[str, str]]:
    """The digests of the .pth files, by folder and name. Python executes them at startup only, not at a reload."""
    folders = [folder for folder in dict.fromkeys(site.getsitepackages()) if folder in sys.path]
    return {
        folder: {
            name: _sha256(os.path.join(folder, name)) for name in sorted(os.listdir(folder)) if name.endswith(".pth")
        }
        for folder in folders
        if os.path.isdir(folder)
    }


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _python() -> dict[str, str]:
    executable = os.path.realpath(sys.executable)
    return {
        "executable": executable,
        "executable_sha256": _sha256(executable),
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
    }
