"""Write several files and directories at once, which Ansible's file, copy and template do one by one."""

from __future__ import annotations

import dataclasses
import grp
import os
import pathlib
import pwd
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from . import atomic_file, credential
from .command import make_folder

State = Literal["file", "directory", "absent"]
# Returns why a temporary file isn't valid; empty if it is.
Validate = Callable[[str, pathlib.Path], str]
# Argument spec of an item of a module's option `files`; modules add further fields of DesiredFile.
OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
    "content": {"type": "str", "default": ""},
    "mode": {"type": "str"},
    "validate": {"type": "str", "default": ""},
}


class FilesError(Exception):
    """A path can't be written. The message says which and why."""


@dataclasses.dataclass(frozen=True)
class DesiredFile:
    """The wanted state of one path."""

    path: pathlib.Path
    state: State = "file"
    content: str = ""
    source: str = ""  # a file whose text it gets instead of `content`
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    validate: str = ""  # a command; %s is the temporary file
    keep: Sequence[str] | None = None  # paths that stay in a directory, all others are removed; None to keep all


def unlogged(module: type[Any]) -> type[Any]:
    """Return a subclass of AnsibleModule that doesn't write whole files into the host's log."""
    return type(module.__name__, (module,), {"_log_invocation": lambda self: self.log("Invoked")})


def desired(items: Iterable[Mapping[str, Any]]) -> list[DesiredFile]:
    """Parse a module's option `files`. Raises FilesError."""
    return [_desired(item) for item in items]


def _desired(item: Mapping[str, Any]) -> DesiredFile:
    mode = item["mode"] or ("0755" if item["state"] == "directory" else "0644")
    try:
        return DesiredFile(**{**item, "path": pathlib.Path(item["path"]), "mode": int(mode, 8)})
    except ValueError:
        raise FilesError(f"{item['path']}: the mode {mode} isn't octal, such as 0644.") from None


def validation(run: Callable[[list[str]], tuple[int, str, str]]) -> Validate:
    """Return a function that validates a file with its command. `run`: a module's run_command."""

    def validate(command: str, scratch: pathlib.Path) -> str:
        status, out, err = run([word.replace("%s", str(scratch)) for word in shlex.split(command)])
        return (err or out).strip() or f"`{command}` failed without a message" if status else ""

    return validate


def apply(wanted: Sequence[DesiredFile], validate: Validate, *, dry: bool) -> list[dict[str, Any]]:
    """Bring each path into its wanted state, in order. Returns the differences in Ansible's format. Raises FilesError.

    `dry`: change nothing, and assume that missing prerequisites such as users will exist.
    """
    differences = []
    for item in wanted:
        try:
            differences += _apply(item, validate, dry)
            if item.keep is not None:
                differences += _purge(item.path, set(map(pathlib.Path, item.keep)), dry)
        except credential.CredentialError as error:
            raise FilesError(str(error)) from None
        except OSError as error:
            raise FilesError(f"{item.path}: {error.strerror or error}") from None
    return differences


def _apply(item: DesiredFile, validate: Validate, dry: bool) -> list[dict[str, Any]]:
    if item.state == "absent":
        return _remove(item.path, dry)
    # a directory may be a link, for example to a larger disk
    before = _about(item.path, follow=item.state == "directory")
    if before and before["state"] != item.state:
        raise FilesError(f"{item.path} is a {before['state']} instead of a {item.state}. Move it away.")
    after = {"state": item.state, "owner": item.owner, "group": item.group, "mode": f"{item.mode:04o}"}
    is_file = item.state == "file"
    known = _content(item.path) if is_file and before else b""
    content = _wanted(item, dry) if is_file else b""
    shown: list[dict[str, Any]] = []
    if before != after:
        shown.append({**_header(item.path), "before": _lines(before), "after": _lines(after)})
    if known != content:
        # the text of a source may be a key
        old = "" if item.source else (known or b"").decode(errors="replace")
        new = f"the text of {item.source}\n" if item.source else item.content
        shown.append({**_header(item.path), "before": old, "after": new})
    if shown and not dry:
        owner = _owner(item)
        if is_file:
            if before and known == content:
                content = item.path.read_bytes()  # only owner or mode change; a new encryption would be a new secret
            elif item.path.suffix == credential.SUFFIX:
                content = credential.encrypted(item.path, content)
            _write(item, content, owner, validate)
        else:
            _directory(item, owner)
    return shown


def _wanted(item: DesiredFile, dry: bool) -> bytes:
    """Return the wanted content; in check mode, an arbitrary one for a source that doesn't exist yet."""
    if not item.source:
        return item.content.encode()
    try:
        return pathlib.Path(item.source).read_bytes()
    except OSError as error:
        if dry and isinstance(error, FileNotFoundError):
            return b"unknown"
        raise FilesError(f"{item.path} can't be copied from {item.source}: {error.strerror or error}.") from None


def _content(path: pathlib.Path) -> bytes | None:
    """Return a file's content, decrypted to compare it, because each encryption of the same content differs.

    None if it can't be decrypted, for example because the host lost its key.
    """
    try:
        return credential.read(path)
    except credential.CredentialError:
        return None


def _about(path: pathlib.Path, *, follow: bool = False) -> dict[str, str]:
    """Return type, owner, group and mode of a path; empty if it doesn't exist."""
    try:
        found = path.stat(follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return {
        "state": kinds.get(stat.S_IFMT(found.st_mode), "special file"),
        "owner": _name(pwd.getpwuid, found.st_uid),
        "group": _name(grp.getgrgid, found.st_gid),
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
    }


def _name(of: Callable[[int], Any], number: int) -> str:
    try:
        return str(of(number)[0])
    except KeyError:
        return str(number)


def _owner(item: DesiredFile) -> tuple[int, int]:
    """Return uid and gid."""
    try:
        return pwd.getpwnam(item.owner).pw_uid, grp.getgrnam(item.group).gr_gid
    except KeyError as error:
        raise FilesError(f"{item.path}: {str(error).strip(chr(34))}.") from None


def _directory(item: DesiredFile, owner: tuple[int, int]) -> None:
    make_folder(item.path, 0o700)
    os.chown(item.path, *owner)
    item.path.chmod(item.mode)


def _write(item: DesiredFile, content: bytes, owner: tuple[int, int], validate: Validate) -> None:
    """Write a file atomically; it is never readable by more users than its mode allows."""
    with atomic_file.replacing(item.path, content, mode=item.mode, owner=owner) as copy:
        if item.validate and (why := validate(item.validate, copy)):
            raise FilesError(f"{item.path} would not be valid, so it wasn't changed: {why}")


def _remove(path: pathlib.Path, dry: bool) -> list[dict[str, Any]]:
    before = _about(path)
    if not before:
        return []
    if not dry:
        if before["state"] == "directory":
            shutil.rmtree(path)
        else:
            path.unlink()
    return [{**_header(path), "before": _lines(before), "after": "state: absent\n"}]


def _purge(folder: pathlib.Path, keep: set[pathlib.Path], dry: bool) -> list[dict[str, Any]]:
    if not dry:
        # left-overs of a killed run may contain purged content
        atomic_file.sweep(folder, age=0)
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [shown for path in found if path not in keep and not path.is_dir() for shown in _remove(path, dry)]


def _lines(about: dict[str, str]) -> str:
    return "".join(f"{key}: {value}\n" for key, value in (about or {"state": "absent"}).items())


def _header(path: pathlib.Path) -> dict[str, str]:
    return {"before_header": str(path), "after_header": str(path)}
