"""Run git on the controller, unaffected by the caller's environment and by a repository's own configuration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from ..host import disk
from ..host.command import BatonError, CommandError, run

# The user's settings for access to servers. Others (GIT_DIR, GIT_WORK_TREE, GIT_INDEX_FILE, which hooks set) would
# redirect git to another repository.
_KEPT = (
    *("GIT_ASKPASS", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSH_VARIANT", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"),
    *("GIT_SSL_CERT", "GIT_SSL_KEY", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
)
_PIECE = 2**12  # bytes of a line that are read at once: a name in a tree may have any length
# run no program from a repository's configuration, and no hook
_OPTIONS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never")


def git(
    *words: str | Path,
    folder: str | Path | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run git, in `folder` if given, and return its output. Raises CommandError."""
    where: list[str | Path] = ["-C", folder] if folder is not None else []
    return run(["git", *_OPTIONS, *options, *where, *words], env={**_environment(), **(environment or {})})


def _environment() -> dict[str, str | None]:
    given = {name: None for name in os.environ if name.startswith("GIT_") and name not in _KEPT}
    return {**given, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}


def check_size(bare: Path, commit: str, destination: Path) -> None:
    """Raise TooLargeError for a commit that is too large: a few objects can expand to millions of files."""
    allowance = disk.Allowance(destination)
    words = ["git", *_OPTIONS, f"--git-dir={bare}", "ls-tree", "-r", "--long", "--full-tree", commit]
    variables = {name: value for name, value in {**os.environ, **_environment()}.items() if value is not None}
    with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as listing:
        try:
            begins = True
            while line := cast(IO[bytes], listing.stdout).readline(_PIECE):
                if begins:
                    size = line.partition(b"\t")[0].split()[-1]
                    allowance.take(int(size) if size.isdigit() else 0)  # a submodule has no size
                begins = line.endswith(b"\n")
        finally:
            listing.kill()


def repository(folder: str | Path) -> Path | None:
    """Return the top of the checkout that contains a folder; None outside one. Raises BatonError if git fails."""
    try:
        return Path(git("rev-parse", "--show-toplevel", folder=folder).rstrip("\n"))
    except CommandError as error:
        said = error.output
        if "not a git repository" in said or "must be run in a work tree" in said:
            return None
        if error.status is None and not any((place / ".git").exists() for place in _upwards(folder)):
            return None  # git isn't installed, and isn't needed
        raise unreadable(folder, error) from None


def unreadable(folder: str | Path, error: CommandError) -> BatonError:
    """Return the message about a repository that git can't read."""
    said = error.output
    fix = "Repair that repository, or use a folder outside of any repository."
    if "dubious ownership" in said:
        fix = (
            f"It belongs to another user. If you trust it, run `git config --global --add safe.directory "
            f"{Path(folder).resolve()}`, or change its owner to the user who runs the playbook."
        )
    first = next((line for line in said.splitlines() if line.strip()), "it printed no message").rstrip(".")
    return BatonError(f"git can't read {folder}: {first}.", fix)


def _upwards(folder: str | Path) -> list[Path]:
    here = Path(folder).resolve()
    return [here, *here.parents]
