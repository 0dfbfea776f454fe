"""The controller's tools for builds: uv, its Python, its cache, and a TOML reader."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..host import atomic_file, untrusted
from ..host.command import BatonError
from .confinement import Confinement


def cache_folder(setting: str = "") -> Path:
    """Return the controller's cache of downloads and builds."""
    if setting:
        return Path(setting).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "baton"


@dataclass
class Tools:
    """The tools and settings of a build."""

    cache: Path
    index_url: str = ""
    extra_index_urls: list[str] = field(default_factory=list)
    build_environment: dict[str, str] = field(default_factory=dict)
    confinement: Confinement = field(default_factory=Confinement)

    @property
    def uv(self) -> str:
        # beside the running Python first: the project's venv is rarely on PATH
        beside = Path(sys.executable).parent / "uv"
        found = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
        if not found:
            raise BatonError(
                "uv is missing on the controller.", "Run `make setup`, and run Ansible from the venv that it makes."
            )
        return found

    @property
    def python(self) -> str:
        return sys.executable

    @property
    def environment(self) -> dict[str, str]:
        """Variables for uv, which take precedence over the controller's configuration."""
        return {**self.build_environment, **self.uv_environment, **self.index_environment}

    @property
    def uv_environment(self) -> dict[str, str]:
        """Variables with uv's fixed behaviour."""
        return {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}

    @property
    def index_environment(self) -> dict[str, str]:
        """Variables with the inventory's package indexes."""
        env = {}
        if self.index_url:
            env["UV_DEFAULT_INDEX"] = self.index_url
        if self.extra_index_urls:
            env["UV_INDEX"] = " ".join(self.extra_index_urls)
        return env

    def ask_with_builds(self, argv: Sequence[str | Path], cwd: Path, what: str) -> str:
        """Run uv for a resolution that may need builds: confined, with network and a separate cache."""
        return self.confinement.run(
            argv, what=what, cwd=cwd, environment=self.environment, writable=[cwd], index=True, network=True,
        )  # fmt: skip

    def folder(self, *parts: str) -> Path:
        """Return a folder of the cache; creates it with mode 0700, because index URLs may contain passwords."""
        path = self.cache.joinpath(*parts)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BatonError(
                f"The cache folder {path} can't be created ({error.strerror}).",
                "Set app_release_cache_dir to a folder that the user who runs the playbook can write to.",
            ) from None
        return path

    def cached(self, folder: str, name: str, make: Callable[[], str], *, refresh: bool = False) -> str:
        """Return a text from the cache, or make and cache it, so that a second run gets the same text quickly."""
        path = self.folder(folder) / name
        if path.is_file() and not refresh:
            os.utime(path)
            return path.read_text(encoding="utf-8")
        text = make()
        atomic_file.write(path, text)
        return text


def key_of(*parts: object) -> str:
    """Return a hash of values that JSON can represent."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(paths: Iterable[Path], root: Path) -> list[tuple[str, str]]:
    """Return the relative names and hashes of files."""
    return sorted((os.path.relpath(path, root), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML 1.1, which uv writes; tries the standard library's faster parser of 1.0 first. Raises ValueError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        pass
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # imported late: preflight, which reports a missing package, already imports this module
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        found: dict[str, Any] = tomlkit.parse(text).unwrap()
    except (TOMLKitError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return found


_LARGEST = 2**24  # bytes of a source's TOML file
# The expected types of the keys that are read: tables by key (`*`: any key), lists with the type of their entries.
_REQUIREMENTS, _ENTRIES = [object], [{"extras": [str]}]
_SHAPES: dict[str, Any] = {
    "pyproject.toml": {
        "build-system": {"requires": [object]},
        "dependency-groups": {"*": _REQUIREMENTS},
        "project": {"dependencies": _REQUIREMENTS, "dynamic": [str], "optional-dependencies": {"*": _REQUIREMENTS}},
        "tool": {
            "poetry": {"dependencies": {}},
            "uv": {
                **dict.fromkeys(("constraint-dependencies", "override-dependencies"), _REQUIREMENTS),
                "dev-dependencies": _REQUIREMENTS,
                "sources": {},
            },
        },
    },
    "uv.lock": {
        "manifest": {"constraints": _ENTRIES, "overrides": _ENTRIES},
        "package": [{"metadata": {"requires-dev": {"*": _ENTRIES}, "requires-dist": _ENTRIES}, "source": {}}],
    },
    "poetry.lock": {"metadata": {}, "package": [{}]},
}


def malformed(found: Any, file: str) -> str:
    """Return which value of a TOML file has the wrong type; empty if none has. `file`: the file's name."""
    return _unlike(found, _SHAPES.get(file, {}), "")


def _unlike(found: Any, shape: Any, where: str) -> str:
    if isinstance(shape, type):
        return "" if isinstance(found, shape) else f"{where} is not a string"
    if isinstance(shape, list):
        if not isinstance(found, list):
            return f"{where} is not a list"
        return next((why for one in found if (why := _unlike(one, shape[0], f"an entry of {where}"))), "")
    if not isinstance(found, dict):
        return f"{where} is not a table"
    inner = ((key, shape.get(key, shape.get("*"))) for key in found)
    asked = ((key, one) for key, one in inner if one is not None)
    return next((why for key, one in asked if (why := _unlike(found[key], one, f"{where}.{key}".lstrip(".")))), "")


def read_toml(path: Path, name: str) -> dict[str, Any]:
    """Read a source's TOML file and check its structure. `name`: its name in messages. Raises BatonError."""
    try:
        found = parse_toml(untrusted.read(path, _LARGEST, follow=True).decode())
    except UnicodeDecodeError:
        raise BatonError(f"{name} of the source is not UTF-8, as TOML must be.", f"Save {name} as UTF-8.") from None
    except (OSError, ValueError) as error:
        raise BatonError(f"{name} of the source is not valid TOML ({error}).", f"Correct {name}.") from None
    if why := malformed(found, path.name):
        raise BatonError(f"{name} of the source can't be read: {why}.", f"Correct {name}.")
    return found
