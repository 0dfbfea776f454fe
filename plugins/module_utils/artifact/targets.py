"""Targets of wheels: the Python version, architecture and C library of app servers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from ..host.command import BatonError

# The oldest glibc (2.x) that a manylinux wheel can require, and tag names from before PEP 600.
_OLDEST_GLIBC = {"x86_64": 5, "i686": 5}
_LEGACY_NAMES = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
# Stands for the newest patch release if only 3.x is known.
_ANY_PATCH = 99


@dataclass(frozen=True, order=True)
class Target:
    """One kind of app server."""

    minor: int
    architecture: str
    glibc: tuple[int, int]
    patch: int | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> Target:
        """Read {python: "3.11" or "3.11.2", architecture: x86_64, glibc: "2.36"}."""
        python = re.fullmatch(r"3\.(\d+)(?:\.(\d+))?\S*", str(raw.get("python", "")))
        glibc = re.fullmatch(r"(\d+)\.(\d+)", str(raw.get("glibc", "")))
        architecture = str(raw.get("architecture", ""))
        # it becomes part of paths
        if python is None or glibc is None or not re.fullmatch("[A-Za-z0-9_]+", architecture):
            raise BatonError(
                f"The target {dict(raw)} is incomplete.",
                'Give each target as {python: "3.11", architecture: x86_64, glibc: "2.36"}, the versions quoted.',
            )
        return cls(
            minor=int(python[1]),
            architecture={"arm64": "aarch64", "amd64": "x86_64"}.get(architecture, architecture),
            glibc=(int(glibc[1]), int(glibc[2])),
            patch=None if python[2] is None else int(python[2]),
        )

    @property
    def key(self) -> str:
        """The name of this target; patch releases of Python share their wheels."""
        return f"py3.{self.minor}-{self.architecture}-glibc{self.glibc[0]}.{self.glibc[1]}"

    @property
    def python(self) -> str:
        return f"3.{self.minor}"

    @property
    def python_full(self) -> str:
        return self.python if self.patch is None else f"{self.python}.{self.patch}"

    def _patches(self) -> tuple[int, ...]:
        return (_ANY_PATCH, 0) if self.patch is None else (self.patch,)

    def allows(self, requires_python: str) -> bool:
        """Whether a requires-python allows this Python (or any patch release of it, if unknown)."""
        allowed = SpecifierSet(requires_python)
        return any(allowed.contains(f"3.{self.minor}.{patch}", prereleases=True) for patch in self._patches())

    def holds(self, marker: str) -> bool:
        """Whether an environment marker is true on this target (or for any patch release of it, if unknown).

        Raises BatonError for an invalid marker.
        """
        if not marker:
            return True
        try:
            parsed = Marker(marker)
            return any(parsed.evaluate(self._environment(patch)) for patch in self._patches())
        except (ValueError, KeyError, RecursionError) as error:  # of parsing and of evaluation
            cause = next(iter(str(error).splitlines()), type(error).__name__)
            raise BatonError(
                f"The environment marker {marker[:100]!r} can't be evaluated ({cause}).",
                "Correct it where the application's requirements have it, or lock the application again.",
            ) from None

    def _environment(self, patch: int) -> dict[str, str]:
        full = f"3.{self.minor}.{patch}"
        return {
            "extra": "",
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "python_version": f"3.{self.minor}",
            "sys_platform": "linux",
        }

    @cached_property
    def _ranks(self) -> dict[Tag, int]:
        platforms = []
        for glibc_minor in range(self.glibc[1], _OLDEST_GLIBC.get(self.architecture, 17) - 1, -1):
            platforms.append(f"manylinux_2_{glibc_minor}_{self.architecture}")
            legacy = _LEGACY_NAMES.get((2, glibc_minor))
            if legacy:
                platforms.append(f"{legacy}_{self.architecture}")
        platforms.append(f"linux_{self.architecture}")
        version = (3, self.minor)
        interpreter = f"cp3{self.minor}"
        tags = [
            *cpython_tags(version, abis=[interpreter], platforms=platforms),
            *compatible_tags(version, interpreter, platforms),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}

    def rank(self, filename: str) -> int | None:
        """Return how well a wheel fits (0 is best); None if it doesn't."""
        try:
            tags = parse_wheel_filename(filename)[3]
        except InvalidWheelFilename:
            return None
        ranks = [self._ranks[tag] for tag in tags if tag in self._ranks]
        return min(ranks) if ranks else None
