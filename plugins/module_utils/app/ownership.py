"""Find users, groups, units, folders and files that an application would use although others created them.

The marker of an application that Baton created is the folder /var/lib/baton/NAME, which site.yml creates before
anything else. A user's marker is its comment. Runs on hosts.
"""

from __future__ import annotations

import glob
import grp
import os
import pathlib
import pwd
from collections.abc import Iterator, Sequence

from . import layout

UNIT_FOLDERS = (
    *("etc/systemd/system", "run/systemd/system", "run/systemd/transient", "run/systemd/generator.late"),
    *("usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"),
)
COMMENT = "The application {name}"  # of the user; the role app_account writes the same


def problems(
    host: str,
    name: str,
    user: str,
    adopt: Sequence[str] = (),
    *,
    server: bool = True,
    edge: bool = False,
    root: str = "/",
) -> list[str]:
    """Return a sentence with the fix for each thing that somebody else created, except those in `adopt`."""
    here = pathlib.Path(root)
    found: list[tuple[str, str]] = []
    if server:
        found += _account(name, user)
        if (here / "var/lib" / name).is_symlink():
            return [
                f"{host}: /var/lib/{name} is a link, which systemd doesn't accept as a state folder. Mount the "
                "link's target there instead (`mount --bind`, with an entry in /etc/fstab)."
            ]
        if not _is_marked(here, name):
            found += _files(here, name)
        found += _shipped(here, name)
    if edge and not (here / "var/lib/nginx-site" / name).is_dir():
        site = f"/etc/nginx/sites-enabled/{name}.conf"
        if os.path.lexists(here / site[1:]):
            found.append((site, "is a site of nginx that Baton didn't write"))
    sentences = []
    for thing, what in dict.fromkeys(found):
        if thing not in adopt:
            other = "app_account_user" if thing.startswith(("user ", "group ")) else "app_name"
            sentences.append(
                f"{host}: {thing} {what}. Choose another {other}, remove it, or let Baton use it: "
                f'app_account_adopt: ["{thing}"].'
            )
    return sentences


def _is_marked(root: pathlib.Path, name: str) -> bool:
    mark = root / "var/lib/baton" / name
    return mark.is_dir() and not mark.is_symlink() and mark.stat().st_uid == os.geteuid()


def _account(name: str, user: str) -> Iterator[tuple[str, str]]:
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        try:
            grp.getgrnam(user)
        except KeyError:
            return
        yield f"group {user}", "exists, and the application's processes would be members of it"
        return
    if known.pw_gecos.split(",")[0] != COMMENT.format(name=name):
        what = f'exists with the home {known.pw_dir}, the shell {known.pw_shell} and the comment "{known.pw_gecos}"'
        yield f"user {user}", f"{what}, and Baton didn't create it"


def _files(root: pathlib.Path, name: str) -> Iterator[tuple[str, str]]:
    for folder in ("etc", "opt", "var/lib", "run"):
        if os.path.lexists(root / folder / name):
            yield f"/{folder}/{name}", "exists, and Baton didn't create it"
    for place in ("etc/tmpfiles.d", "usr/lib/tmpfiles.d"):
        if os.path.lexists(root / place / f"{name}.conf"):
            yield f"/{place}/{name}.conf", "exists, and Baton didn't create it"
    for unit in _unit_files(root, name):
        for place in UNIT_FOLDERS[:2]:
            if os.path.lexists(root / place / unit):
                yield unit, f"is a unit in /{place} that Baton didn't write"


def _unit_files(root: pathlib.Path, name: str) -> tuple[str, ...]:
    try:
        return layout.Application(name, str(root)).unit_files
    except layout.ActivationError:  # the folder is reported anyway
        return ()


def _shipped(root: pathlib.Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield units of packages, which the application's units would hide."""
    for unit in _unit_files(root, name):
        for place in UNIT_FOLDERS[2:]:
            if os.path.lexists(root / place / unit):
                yield unit, f"is a unit of another program (/{place})"
                break
    if os.path.lexists(root / "etc/init.d" / name):
        yield f"/etc/init.d/{name}", "is a service of another program"


def foreign_units(name: str, root: str = "/") -> list[str]:
    """Return units `<name>-…` that aren't the application's, which a process type or schedule would replace."""
    found = set()
    for place in UNIT_FOLDERS:
        for path in (pathlib.Path(root) / place).glob(f"{glob.escape(name)}-*"):
            # Baton's units run programs in the application's folder, or have a fixed description
            if path.suffix in (".service", ".timer") and not any(mark in _content(path) for mark in _marks(name)):
                found.add(path.name)
    return sorted(found)


def _marks(name: str) -> tuple[bytes, bytes]:
    return f"/opt/{name}/".encode(), f"Description=Schedule of {name}:".encode()


def _content(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # such as a dangling link, which masks a unit
        return b""
