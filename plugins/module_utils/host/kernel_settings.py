"""Kernel settings (sysctl): resolve those of all configuration files together, and apply them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# sysctl.d(5): of files with the same name, the first folder's counts; files are read in order of their names
FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d")


class Line(NamedTuple):
    """An assignment in a file; one without a value excludes its names from patterns."""

    pattern: str
    value: str | None
    path: str


@dataclasses.dataclass(frozen=True)
class Unmet:
    """A setting that could not be applied."""

    name: str
    wanted: str
    has: str  # the current value; empty if the kernel has no such setting
    why: str

    def description(self) -> str:
        """Return the setting, its current value and the reason, for messages."""
        return f"{self.name} = {self.wanted} ({f'is {self.has}: ' if self.has else ''}{self.why})"


@dataclasses.dataclass(frozen=True)
class Applied:
    """The result of applying settings."""

    changed: dict[str, tuple[str, str]]  # former and new value by name
    unmet: list[Unmet]


def apply(settings: Mapping[str, str], path: str, *, dry: bool, root: str = "/") -> Applied:
    """Apply the settings of the file at `path`, which may not be written yet.

    `*` in a name matches all existing names, such as each network interface. As at boot, files with a later name take
    precedence, and names over patterns; settings of other files that take precedence aren't changed. `dry`: write
    nothing.
    """
    lines = list(_lines(settings, path, root))
    changed: dict[str, tuple[str, str]] = {}
    unmet = []
    for name in _names(settings, root):
        line = _effective(name, lines)
        wanted = _wanted(name, settings)
        if line.path != path:
            if line.value is not None and not _same(line.value, wanted):
                unmet.append(Unmet(name, wanted, line.value, f"set by {line.path}"))
            continue
        place = _place(name, root)
        try:
            has = place.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            # of a removed interface, or of a protocol that this kernel doesn't support
            if name in settings and not _switched_off(name, root):
                unmet.append(Unmet(name, wanted, "", "this kernel has no such setting"))
            continue
        except OSError as error:
            unmet.append(Unmet(name, wanted, "", _reason(error)))
            continue
        if _same(has, wanted):
            continue
        why = _set(place, wanted, dry=dry)
        if why:
            unmet.append(Unmet(name, wanted, has, why))
        else:
            changed[name] = (has, wanted)
    return Applied(changed, unmet)


def _set(place: pathlib.Path, value: str, *, dry: bool) -> str:
    """Set a value. Returns why the kernel doesn't accept it; empty if it does; in a dry run checks only permission."""
    if dry:
        return "" if os.access(place, os.W_OK) else "it can't be changed on this host"
    try:
        with open(os.open(place, os.O_WRONLY), "w", encoding="utf-8") as file:
            file.write(f"{value}\n")
        has = place.read_text(encoding="utf-8").strip()
    except OSError as error:
        return _reason(error)
    return "" if _same(has, value) else f"the kernel changed it to {has}"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO)


def _lines(settings: Mapping[str, str], path: str, root: str) -> Iterator[Line]:
    """Yield the assignments of all files in systemd-sysctl's order, with `settings` as the content of `path`."""
    files = {}
    for folder in reversed(FOLDERS):
        files.update({file.name: file for file in pathlib.Path(root, folder).glob("*.conf")})
    own = pathlib.Path(path).name
    for file_name in sorted({*files, own}):
        if file_name == own:
            yield from (Line(name, value, path) for name, value in settings.items())
            continue
        with contextlib.suppress(OSError):
            shown = f"/{files[file_name].relative_to(root)}"
            for text in files[file_name].read_text(encoding="utf-8", errors="replace").splitlines():
                if text.strip() and text.strip()[0] not in "#;":
                    name, given, value = text.partition("=")
                    pattern = normal(name.strip().removeprefix("-"))
                    yield Line(pattern, value.strip() if given else None, shown)


def _effective(name: str, lines: list[Line]) -> Line:
    """Return the line that applies: the last with the name itself, otherwise the last whose pattern matches it."""
    exact = [line for line in lines if line.pattern == name]
    return (exact or [line for line in lines if line.value is not None and _matches(name, line.pattern)])[-1]


def _matches(name: str, pattern: str) -> bool:
    """Match part by part: a star doesn't match separators."""
    parts, patterns = (_swapped(text).split("/") for text in (name, pattern))
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _names(settings: Mapping[str, str], root: str) -> list[str]:
    """Return the names that the settings refer to on this host, without duplicates."""
    sys = pathlib.Path(root, "proc/sys")
    found: dict[str, None] = {}
    for pattern in settings:
        if "*" in pattern:
            places = sorted(sys.glob(_swapped(pattern)))
            found.update(dict.fromkeys(_swapped(str(place.relative_to(sys))) for place in places))
        else:
            found[pattern] = None
    return list(found)


def _wanted(name: str, settings: Mapping[str, str]) -> str:
    return settings.get(name) or [value for pattern, value in settings.items() if _matches(name, pattern)][-1]


def normal(name: str) -> str:
    """Return a name in the form of sysctl(8): parts separated by dots, and dots in an interface's name as slashes."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else _swapped(name)


def _swapped(text: str) -> str:
    """Convert a name to its path below /proc/sys, or such a path to its name."""
    return text.translate(str.maketrans("./", "/."))


def _place(name: str, root: str) -> pathlib.Path:
    return pathlib.Path(root, "proc/sys", _swapped(name))


def _switched_off(name: str, root: str) -> bool:
    """Whether the setting is of IPv6 on a host that was booted without it."""
    return name.startswith("net.ipv6.") and not pathlib.Path(root, "proc/sys/net/ipv6").exists()


def _same(one: str, other: str) -> bool:
    """Whether two values are the same; the kernel separates several numbers with tabs."""
    return one.split() == other.split()
