"""Read requirements files with their includes into pins, unpinned requirements and local projects."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ..host import untrusted
from ..host.command import BatonError

# Limits: bytes of a file, number of files, characters of a line and of its requirement without hashes
_LARGEST, _MAX_FILES = 2**22, 100
_LONGEST, _LONGEST_REQUIREMENT = 2**18, 4096
_OWN_REPOSITORY = re.compile(r"git\+(file:|[./~])", re.IGNORECASE)
_SHOWN = 100  # characters of a line in a message
# Ignored: the controller's settings decide where packages come from, not the project's.
_INDEX_OPTIONS = (
    "-i",
    "--index-url",
    "--extra-index-url",
    "-f",
    "--find-links",
    "--no-index",
    "--trusted-host",
    "--prefer-binary",
    "--pre",
    "--only-binary",
    "--no-binary",
    "--require-hashes",
    "--use-feature",
)


@dataclass(frozen=True, order=True)
class Pin:
    """One package with its version or URL, and an environment marker."""

    name: str
    version: str = ""
    url: str = ""
    marker: str = ""
    hashes: tuple[str, ...] = field(default=(), compare=False)

    def line(self, *, marker: bool = True, hashes: bool = True) -> str:
        """Return the pin as a line of a requirements file."""
        text = f"{self.name} @ {self.url}" if self.url else f"{self.name}=={self.version}"
        if marker and self.marker:
            text += f" ; {self.marker}"
        if hashes:
            text += "".join(f" --hash={value}" for value in sorted(self.hashes))
        return text


@dataclass
class Requirements:
    """The content of a requirements file and its includes."""

    lines: list[str] = field(default_factory=list)
    pins: list[Pin] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    locals: list[tuple[Path, str]] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    within: Path | None = None

    @property
    def hashed(self) -> bool:
        """Whether everything is pinned with hashes, or by URL."""
        return bool(self.pins) and all(pin.hashes or pin.url for pin in self.pins) and not self.loose


def logical_lines(text: str) -> Iterable[str]:
    """Yield lines like pip: continuations joined, comments removed."""
    joined = re.sub(r"\\\r?\n", " ", text)
    for line in joined.splitlines():
        stripped = re.sub(r"(^|\s)#.*", "", line).strip()
        if stripped:
            yield stripped


def _as_pin(requirement: Requirement, hashes: tuple[str, ...]) -> Pin | None:
    name = canonicalize_name(requirement.name)
    marker = str(requirement.marker) if requirement.marker else ""
    if requirement.url:
        return Pin(name=name, url=requirement.url, marker=marker, hashes=hashes)
    specifiers = list(requirement.specifier)
    if len(specifiers) == 1 and specifiers[0].operator in ("==", "===") and "*" not in specifiers[0].version:
        return Pin(name=name, version=specifiers[0].version, marker=marker, hashes=hashes)
    return None


def local_path(text: str) -> tuple[str, str] | None:
    """Return path and extras of a requirement that names a folder or file: ./x, ../x[a], /x, file:x, `.`."""
    path, extras = text.split(" ; ")[0].strip(), ""
    if path.endswith("]") and (start := path.find("[", path.rfind("]", 0, -1) + 1)) >= 0:
        path, extras = path[:start], path[start:]
    if path.startswith("file:"):
        # file:./x is relative, file:///x is not
        return _path_of(path), extras
    if path in (".", "..") or path.startswith(("./", "../", "/", "~/")):
        return path, extras
    return None


def _path_of(url: str) -> str:
    """Return the path of a file URL. Raises BatonError."""
    try:
        path = unquote(urlsplit(url).path)
    except ValueError as error:
        raise BatonError(f"The requirement {_shown(url)} is not a valid URL ({error}).", "Correct it.") from None
    if "\n" in path:
        # it would become two lines
        raise BatonError(f"The requirement {_shown(url)} has a line break in its path.", "Correct it.")
    return path


def _shown(line: str) -> str:
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")


def read(path: Path, *, root: Path | None = None, within: Path | None = None) -> Requirements:
    """Read a requirements file with its includes, which must be inside the folder `within`, if given.

    `root`: the project's folder, which local paths may be relative to. Raises BatonError.
    """
    found = Requirements(within=within)
    _read_into(found, path, root or path.parent, constraints=False, seen=set())
    return found


def read_text(text: str, *, root: Path, name: str = "requirements") -> Requirements:
    """Read exported or resolved requirements; local paths are relative to `root`. Raises BatonError."""
    found = Requirements()
    for line in logical_lines(text):
        _read_line(found, line, root / name, root, constraints=False, seen=set())
    return found


def _read_into(found: Requirements, path: Path, root: Path, *, constraints: bool, seen: set[tuple[Path, bool]]) -> None:
    # not Path.resolve, which raises for a link to itself
    place, within = Path(os.path.realpath(path)), Path(os.path.realpath(found.within)) if found.within else None
    # compare resolved paths: files that include each other across folders build ever longer relative paths
    if (place, constraints) in seen:
        return
    seen.add((place, constraints))
    if within is not None and not place.is_relative_to(within):
        raise BatonError(
            f"The requirements include {os.path.relpath(place, within)}, which leads out of the source.",
            "Put that file into the source, or set app_source to the folder that contains both.",
        )
    if len(seen) > _MAX_FILES:
        raise BatonError(f"The requirements include more than {_MAX_FILES} files.", "Merge some of them.")
    try:
        text = decode(untrusted.read(place, _LARGEST))
    except OSError as error:
        raise BatonError(
            f"The requirements file {path} can't be read ({error.strerror or error}).",
            "Correct the path where it is included, or app_release_lock.",
        ) from None
    except UnicodeDecodeError as error:
        raise BatonError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}).",
            f"Save {path.name} as UTF-8; PowerShell's `>` writes UTF-16.",
        ) from None
    found.files.append(path)
    for line in logical_lines(text):
        _read_line(found, line, path, root, constraints=constraints, seen=seen)


def decode(data: bytes) -> str:
    """Decode text like pip: by its byte order mark, otherwise as UTF-8. Raises UnicodeDecodeError."""
    marks = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
    for mark, encoding in (*marks, (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return data.decode(encoding).removeprefix("\ufeff")
    if 0 in data:
        raise UnicodeDecodeError("utf-8", data, data.index(0), data.index(0) + 1, "a NUL, as in UTF-16 without a mark")
    return data.decode()


def _read_line(
    found: Requirements, line: str, path: Path, root: Path, *, constraints: bool, seen: set[tuple[Path, bool]]
) -> None:
    text, hashes = _split_hashes(line)
    why = "is too long" if len(line) > _LONGEST or len(text) > _LONGEST_REQUIREMENT else ""
    if not all(re.fullmatch(r"[a-z0-9_]+:[0-9a-fA-F]{1,128}", value) for value in hashes):
        why = "has an invalid hash"
    if why or untrusted.printable(line) != line:
        raise BatonError(f"The line {_shown(line)} in {path} {why or 'has control characters'}.", "Correct the line.")
    option = re.split(r"[\s=]", line, maxsplit=1)[0]
    if option in ("-r", "--requirement", "-c", "--constraint"):
        included = path.parent / line[len(option) :].lstrip(" \t=")
        _read_into(found, included, root, constraints=constraints or option in ("-c", "--constraint"), seen=seen)
        return
    if option in _INDEX_OPTIONS:
        return
    if option in ("-e", "--editable"):
        text = text[len(option) :].lstrip(" \t=")
    refuse_controller([text], str(path))
    local = local_path(text)
    if local is not None:
        # pip resolves paths from its working directory, which is the project's root or the file's folder
        places = [Path(local[0])] if local[0].startswith("/") else [path.parent / local[0], root / local[0]]
        where = next((place for place in places if os.path.exists(place)), places[0])
        found.locals.append((where, local[1]))
        return
    if re.match(r"(git|hg|svn|bzr)\+", text):
        egg = re.search(r"[#&]egg=([\w.-]+)", text)
        if egg is None:
            raise BatonError(f"The requirement {_shown(text)} in {path} has no name.", "Write it as `name @ URL`.")
        text = f"{egg[1]} @ {text.split('#')[0]}"
    try:
        requirement = Requirement(text)
        scheme = urlsplit(requirement.url or "").scheme
    except (ValueError, RecursionError) as error:  # InvalidRequirement; nested parentheses
        cause = next(iter(str(error).splitlines()), "")
        raise BatonError(
            f"The line {_shown(line)} in {path} is not a requirement ({cause[: 2 * _SHOWN]}).", "Correct the line."
        ) from None
    if constraints:
        found.constraints.append(text)
        return
    if requirement.url and scheme == "file":
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        found.locals.append((Path(_path_of(requirement.url)), extras))
        return
    if requirement.url and scheme not in ("http", "https") and not scheme.startswith(("git+", "hg+", "svn+", "bzr+")):
        raise BatonError(
            f"The line {_shown(line)} in {path} has a URL whose scheme is none of https, http, git and file.",
            "Correct the line.",
        )
    pin = _as_pin(requirement, hashes)
    if pin is None:
        found.loose.append(text)
    else:
        found.pins.append(pin)
    found.lines.append(text)


def refuse_controller(lines: Iterable[str], where: str) -> None:
    """Raise BatonError for requirements that name the controller's variables or git repositories.

    uv would insert the variables, which may be secret, and read repositories that only the operator may read.
    """
    for line in lines:
        if "${" in line:
            raise BatonError(
                f"The requirement {_shown(line)} ({where}) names an environment variable of the controller.",
                "Write the URL without it; put credentials into ~/.netrc or git's credential helper.",
            )
        if _OWN_REPOSITORY.search(line):
            raise BatonError(
                f"The requirement {_shown(line)} ({where}) names a git repository on the controller.",
                "Write the URL of a git server, or add the project to the source and name its folder.",
            )


def _split_hashes(line: str) -> tuple[str, tuple[str, ...]]:
    hashes = tuple(re.findall(r"--hash[=\s]+(\S+)", line))
    text = re.split(r"\s--(?:hash|config-settings|global-option|config-setting)\b", line)[0]
    return text.strip(), hashes
