"""The source of an application: a folder, a git repository at a ref, or a package of an index."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from ..host import disk
from ..host.command import BatonError, CommandError, find_file, resolve, without_credentials
from . import source_tree
from .git import check_size, git, repository

_FULL_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")
_CREDENTIALS = (
    """!f() { test "$1" = get && """
    """printf 'username=%s\\npassword=%s\\n' "$BATON_GIT_USERNAME" "$BATON_GIT_PASSWORD"; }; f"""
)


@dataclass(frozen=True)
class Source:
    """A source as parsed from app_source and app_version, before anything of it is read."""

    kind: str  # folder, git or package
    where: str  # path, URL or requirement, including credentials, which git needs
    ref: str = ""
    within: str = ""  # subfolder of a repository; '' for all of it

    def __str__(self) -> str:
        shown = os.path.join(without_credentials(self.where), self.within).rstrip("/")
        return f"{shown} at {self.ref}" if self.ref else shown


def classify(source: str, version: str, bases: Iterable[str]) -> Source:
    """Parse app_source and app_version. `bases`: folders for relative paths. Raises BatonError if it is ambiguous."""
    source, version = source.strip(), version.strip()
    if not source:
        raise BatonError("app_source is empty.", "Give a folder, a git URL, or the name of a published package.")
    if _is_git(source):
        return _git_source(source, version)
    if re.match(r"[a-z][a-z0-9+.-]*://", source):
        raise BatonError(
            f"app_source {source!r} is neither a git URL nor a package.",
            "Give a git URL (https://, ssh://, git@host:path, file://) or a package as `name @ URL`.",
        )
    bases = list(bases)
    folders = [place for place in resolve(source, bases) if os.path.isdir(place)]
    if len({os.path.realpath(folder) for folder in folders}) > 1:
        raise BatonError(
            f"app_source {source!r} is ambiguous, there are two such folders: {' and '.join(folders)}.",
            "Give an absolute path.",
        )
    looks_like_path = source.startswith((".", "/", "~")) or ("/" in source and "@" not in source)
    if looks_like_path:
        if not folders:
            cause, fix = f"app_source {source!r} is not a folder", "Correct the path"
            if not os.path.isabs(source):
                cause += f" (looked for {' and '.join(resolve(source, bases))})"
                fix += ", which is relative to the inventory's folder" if not source.startswith("~") else ""
            raise BatonError(f"{cause}.", f"{fix}.")
        return _folder_source(folders[0], version)
    try:
        requirement = Requirement(source)
    except InvalidRequirement:
        if folders:
            return _folder_source(folders[0], version)
        raise BatonError(
            f"app_source {source!r} is neither a folder nor a git URL nor a package name.",
            "Give one of these; write a folder as ./name.",
        ) from None
    if folders:
        raise BatonError(
            f"app_source {source!r} is a folder ({folders[0]}) and could also be a published package.",
            f"Write ./{source} for the folder, or '{source}>=0' for the package.",
        )
    if version:
        if requirement.specifier or requirement.url:
            raise BatonError(
                f"app_source {source!r} and app_version {version!r} both give a version.",
                "Give the version in one of them.",
            )
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        return Source("package", f"{requirement.name}{extras}=={version}")
    return Source("package", str(requirement))


def _is_git(source: str) -> bool:
    if " @ " in source:
        return False
    scheme = source.startswith(("git+", "ssh://", "git://", "http://", "https://", "file://"))
    if scheme and re.search(r"\.(whl|zip|tar\.gz|tgz)(#.*)?\Z", source):
        return False
    return scheme or re.match(r"[\w.-]+@[\w.-]+:", source) is not None


def _git_source(source: str, version: str) -> Source:
    url = source.removeprefix("git+")
    url, _, fragment = url.partition("#")
    if fragment:
        raise BatonError(f"app_source {source!r} has a part after '#'.", "Give a subfolder as app_source_subdir.")
    ref = version
    # an @ before the path separates a user, not a ref
    at = re.fullmatch(r"((?:\w+://[^/]*/|[^/]*:(?!//)).*)@([^@:]+)", url) if source.startswith("git+") else None
    if at:
        if version and at[2] != version:
            raise BatonError(f"app_source names {at[2]!r} and app_version {version!r}.", "Give the ref in one of them.")
        url, ref = at[1], at[2]
    return Source("git", url, ref)


def _folder_source(folder: str, version: str) -> Source:
    if (Path(folder) / "HEAD").is_file() and (Path(folder) / "objects").is_dir():
        return Source("git", folder, version)  # a bare repository
    if version and (known := _repository(folder)):
        return Source("git", known[0], version, known[1])
    return Source("folder", folder, version)


def _repository(folder: str) -> tuple[str, str] | None:
    """Return the git repository that tracks a folder, and the folder's path in it; None if there is none."""
    top = repository(folder)
    if top is None:
        return None
    within = os.path.relpath(os.path.realpath(folder), os.path.realpath(top))
    known = git("ls-files", "--", ".", folder=folder)
    return (str(top), "" if within == "." else within) if known or within == "." else None


def problems(values: Mapping[str, Any], bases: Iterable[str]) -> list[str]:
    """Return sentences about problems of a source that the controller can see without fetching it.

    `values`: the settings by name. The content is checked only for a folder.
    """
    bases = list(bases)

    def value(name: str) -> str:
        return str(values.get(name) or "")

    try:
        found = classify(value("app_source"), value("app_version"), bases)
        subdir = source_tree.inside(value("app_source_subdir"), "app_source_subdir")
    except BatonError as error:
        return [str(error)]
    sentences = []
    for entry in values.get("app_release_files") or []:
        origin = entry.get("src") if isinstance(entry, Mapping) else None
        if origin:
            try:
                find_file(str(origin), bases, "app_release_files")
            except BatonError as error:
                sentences.append(str(error))
    root = Path(found.where)
    if found.kind != "folder":
        return sentences
    try:
        source_tree.check_merged(root)
    except BatonError as error:
        sentences.append(str(error))
    if not (root / subdir).is_dir():
        return [*sentences, f"app_source_subdir: {root / subdir} is not a folder. Correct it."]
    # a build command may create the missing paths
    if not values.get("app_release_build_command"):
        places = [("app_release_lock", value("app_release_lock"))]
        places.append(("app_release_working_directory", value("app_release_working_directory")))
        places += [("app_release_import_paths", str(path)) for path in values.get("app_release_import_paths") or []]
        for name, path in places:
            tried = resolve(path, [root, root / subdir])
            if path and not any(map(os.path.exists, tried)) and not _is_added(path, values):
                sentences.append(f"{name}: {' or '.join(tried)} doesn't exist. Correct the path.")
    return sentences


def _is_added(path: str, values: Mapping[str, Any]) -> bool:
    added = [
        str(entry.get("path", "")) for entry in values.get("app_release_files") or [] if isinstance(entry, Mapping)
    ]
    return any(name == path or name.startswith(f"{path.rstrip('/')}/") for name in added)


def fetch(source: Source, destination: Path, cache: Path) -> str:
    """Copy the application's files into an empty folder. Returns the commit; '' if there is none. Raises BatonError."""
    destination.mkdir(parents=True, exist_ok=True)
    if source.kind == "git" and source.within:
        whole = destination.with_name(f"{destination.name}-whole")
        whole.mkdir(parents=True)
        commit = _fetch_git(source, whole, cache)
        found = whole / source.within
        # a link would lead the build to another folder
        if not found.is_dir() or found.resolve() != whole.resolve() / source.within:
            raise BatonError(f"{source} is not a folder at that version.", "Correct app_source or app_version.")
        destination.rmdir()
        found.rename(destination)
        return commit
    if source.kind == "git":
        return _fetch_git(source, destination, cache)
    if source.kind == "folder":
        try:
            source_tree.copy(Path(source.where), destination)
        except OSError as error:
            raise BatonError(
                f"The source {source.where} can't be read ({error}).",
                "Make it readable for the user who runs the playbook.",
            ) from None
        if not any(source_tree.walk(destination)):
            raise BatonError(
                f"The source {source.where} has no files, or git ignores all of them.", "Correct app_source."
            )
    return ""


def describe(folder: Path) -> str:
    """Return a folder's commit for messages, with + if it has uncommitted changes; '' outside git."""
    try:
        commit = git("describe", "--always", "--exclude=*", folder=folder).strip()
        # unlike `--dirty`, this doesn't run the repository's filters on the files
        changed = git("ls-files", "--modified", "--deleted", "--others", "--exclude-standard", folder=folder)
        staged = git("diff-index", "--cached", "--name-only", "HEAD", folder=folder)
    except CommandError:
        return ""
    return f"{commit}+" if changed or staged else commit


def _fetch_git(source: Source, destination: Path, cache: Path) -> str:
    # without credentials, so that a new token doesn't fetch everything again
    bare = cache / "git" / f"{hashlib.sha256(without_credentials(source.where).encode()).hexdigest()[:16]}.git"
    if not (bare / "HEAD").exists():
        git("init", "--quiet", "--bare", bare)
    commit = _commit(source, bare)
    try:
        check_size(bare, commit, destination)
    except disk.TooLargeError as error:
        raise BatonError(f"{source} {error}.", "Leave out of the repository what isn't of the application.") from None
    # a separate index: two runs may share the clone
    with tempfile.TemporaryDirectory(prefix="baton-index-") as scratch:
        index = {"GIT_INDEX_FILE": f"{scratch}/index", "GIT_LFS_SKIP_SMUDGE": "0"}
        places = [f"--git-dir={bare}", f"--work-tree={destination}"]
        git(*places, "checkout", "--force", "--quiet", commit, "--", ".", environment=index)
    if (destination / ".gitmodules").is_file():
        _checkout_with_submodules(source, bare, commit, destination)
    return commit


def _access(url: str) -> tuple[str, list[str], dict[str, str]]:
    """Return a URL without its credentials, and options and environment that pass them to git for that server.

    Other users of a machine can read command lines, so the URL itself must not contain them.
    """
    environment = {"GIT_TERMINAL_PROMPT": "0"}
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise BatonError(
            f"app_source {url!r} is not a valid URL.",
            "Correct it; percent-encode special characters in a token, such as %5B for [.",
        ) from None
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return url, [], environment
    who, _, server = parts.netloc.rpartition("@")
    username, colon, password = who.partition(":")
    there = urllib.parse.urlunsplit(parts._replace(netloc=server))
    credential = f"credential.{parts.scheme}://{server}"
    # override the user's insteadOf rules, such as one from https to ssh, which don't fit a URL with a token
    options = ["-c", f"url.{there}.insteadOf={there}"] if "=" not in there else []
    if not colon:
        return there, [*options, "-c", f"{credential}.username={urllib.parse.unquote(username)}"], environment
    # the empty one resets the user's own helpers for that server
    options += ["-c", f"{credential}.helper=", "-c", f"{credential}.helper={_CREDENTIALS}"]
    environment["BATON_GIT_USERNAME"] = urllib.parse.unquote(username)
    environment["BATON_GIT_PASSWORD"] = urllib.parse.unquote(password)
    return there, options, environment


def _commit(source: Source, bare: Path) -> str:
    url, options, environment = _access(source.where)

    def ask(*words: str) -> str:
        return git(f"--git-dir={bare}", *words, options=options, environment=environment)

    def has(commit: str) -> bool:
        try:
            ask("cat-file", "-e", f"{commit}^{{commit}}")
            return True
        except CommandError:
            return False

    ref = source.ref or "HEAD"
    if _FULL_COMMIT.fullmatch(ref) and has(ref):
        return ref
    wanted = ["HEAD"] if ref == "HEAD" else [f"refs/heads/{ref}", f"refs/tags/{ref}", ref]
    try:
        listed = ask("ls-remote", "--", url, *wanted)
    except CommandError as error:
        raise BatonError(
            f"The git source {source.where} can't be read: {error.last_lines(3)}.",
            "Correct app_source, or give the user who runs the playbook access to it.",
        ) from None
    names = {
        name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines()) if name in wanted
    }
    if len(names) > 1:
        raise BatonError(
            f"app_version {ref!r} is ambiguous in {source.where}: {' and '.join(sorted(names))}.",
            "Give one of these names in full.",
        )
    try:
        if names:
            ask("fetch", "--quiet", "--depth=1", "--no-tags", "--", url, next(iter(names)))
            return ask("rev-parse", "FETCH_HEAD^{commit}").strip()
        if _FULL_COMMIT.fullmatch(ref):
            ask("fetch", "--quiet", "--depth=1", "--no-tags", "--", url, ref)
            return ask("rev-parse", "FETCH_HEAD^{commit}").strip()
        if _SHORT_COMMIT.fullmatch(ref):
            shallow = ["--unshallow"] if (bare / "shallow").exists() else []
            ask(
                "fetch",
                "--quiet",
                *shallow,
                "--",
                url,
                "+refs/heads/*:refs/baton/*",
                "+refs/tags/*:refs/tags/*",
            )
            return ask("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
    except CommandError as error:
        if error.output:
            raise BatonError(
                f"{source} can't be fetched: {error.last_lines(3)}.",
                "Set app_version to a branch, a tag or a commit that the server allows to fetch.",
            ) from None
    raise BatonError(f"{source.where} has no branch, tag or commit {ref!r}.", "Correct app_version.")


def _checkout_with_submodules(source: Source, bare: Path, commit: str, destination: Path) -> None:
    clone = destination.with_name(f"{destination.name}-clone")
    url, options, environment = _access(source.where)
    allow = ["-c", "protocol.file.allow=always"] if source.where.startswith(("/", "file:")) else []
    try:
        git("init", "--quiet", clone)
        git("fetch", "--quiet", "--depth=1", bare, commit, folder=clone)
        git("checkout", "--quiet", commit, folder=clone)
        git("remote", "add", "origin", url, folder=clone)
        update = ("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
        git(*update, folder=clone, options=[*options, *allow], environment=environment)
    except CommandError as error:
        raise BatonError(
            f"A submodule of {source} can't be fetched: {error.last_lines(3)}.",
            "Give the user who runs the playbook access to it, or remove it from the repository.",
        ) from None
    for name in source_tree.walk(clone):
        if not os.path.lexists(destination / name):
            (clone / name).rename(source_tree.place(destination, name, str(source)))
