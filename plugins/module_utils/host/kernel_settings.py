"""Kernel settings (sysctl): what the files of a host say of them together, and what its kernel takes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# sysctl.d(5): of files with one name the first counts; all that count are read by their names
FOLDERS = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d")


class Line(NamedTuple):
    """An assignment of a file; without a value it takes the names out of what patterns say."""

    pattern: str
    value: str | None
    path: str


@dataclasses.dataclass(frozen=True)
class Unmet:
    """A setting that the kernel doesn't have as it is wanted."""

    name: str
    wanted: str
    has: str  # empty where the kernel has no such setting
    why: str

    def words(self) -> str:
        """For people."""
        return f"{self.name} = {self.wanted} ({f'is {self.has}: ' if self.has else ''}{self.why})"


@dataclasses.dataclass(frozen=True)
class Applied:
    """What became of the settings."""

    changed: dict[str, tuple[str, str]]  # former and new value by name
    unmet: list[Unmet]


def apply(settings: Mapping[str, str], path: str, *, dry: bool, root: str = "/") -> Applied:
    """Let the kernel have the settings that the file at `path` holds, or is going to hold.

    `*` in a name stands for whatever is there, such as each network interface. As at boot, files with a later name win,
    and a name wins over a pattern: what another file says so holds, and is not touched. A `dry` run writes nothing.
    """
    lines = list(_lines(settings, path, root))
    changed: dict[str, tuple[str, str]] = {}
    unmet = []
    for name in _names(settings, root):
        line = _effective(name, lines)
        wanted = _wanted(name, settings)
        if line.path != path:
            if line.value is not None and not _same(line.value, wanted):
                unmet.append(Unmet(name, wanted, line.value, f"{line.path} says so"))
            continue
        place = _place(name, root)
        try:
            has = place.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            # of an interface that has gone, or of a protocol that this kernel doesn't speak
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
    """Why the kernel doesn't take the value; empty when it does, or in a dry run would be asked to."""
    if dry:
        return "" if os.access(place, os.W_OK) else "the kernel doesn't let it be set here"
    try:
        with open(os.open(place, os.O_WRONLY), "w", encoding="utf-8") as file:
            file.write(f"{value}\n")
        has = place.read_text(encoding="utf-8").strip()
    except OSError as error:
        return _reason(error)
    return "" if _same(has, value) else f"the kernel made {has} of it"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or errno.EIO)


def _lines(settings: Mapping[str, str], path: str, root: str) -> Iterator[Line]:
    """What all files say, in the order in which systemd-sysctl reads them; of the one at `path`, what it is to say."""
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
    """Which line holds: the last that has the name itself, otherwise the last whose pattern it matches."""
    exact = [line for line in lines if line.pattern == name]
    return (exact or [line for line in lines if line.value is not None and _matches(name, line.pattern)])[-1]


def _matches(name: str, pattern: str) -> bool:
    """Part by part: a star doesn't reach over a separator."""
    parts, patterns = (_swapped(text).split("/") for text in (name, pattern))
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _names(settings: Mapping[str, str], root: str) -> list[str]:
    """The names that the settings mean on this host, each once."""
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
    """A name as sysctl(8) prints it: parts separated by dots, and dots of an interface's name written as slashes."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else _swapped(name)


def _swapped(text: str) -> str:
    """The path below /proc/sys of a name, and the name of such a path."""
    return text.translate(str.maketrans("./", "/."))


def _place(name: str, root: str) -> pathlib.Path:
    return pathlib.Path(root, "proc/sys", _swapped(name))


def _switched_off(name: str, root: str) -> bool:
    """Whether it belongs to IPv6 on a host that was booted without."""
    return name.startswith("net.ipv6.") and not pathlib.Path(root, "proc/sys/net/ipv6").exists()


def _same(one: str, other: str) -> bool:
    """Several numbers are printed with tabs between them."""
    return one.split() == other.split()
