"""Running commands, and the one error type that ends a module with a cause and a fix."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import bounded

MOST = 2**26  # bytes that a command may print
LONGEST = 2**13  # characters of a line of what it printed, as a message has it

# our copies of a source, a package and a list of requirements. Word by word: of a long text that others wrote, a search
# for the beginning of one would begin anew at each of its characters
_WORD = re.compile(r"(?:file:)?[^\s'\"`(:]+")
_SCRATCH = re.compile(r"\A.*/baton-(?:artifact|build|git|index|resolve)-\w+/(?:(?:src|source|plain)/)?")


def without_credentials(text: str) -> str:
    """A text in which no URL names a user or a password: what is told is kept on every host, and shown."""
    # up to the last @ before the path: a password may hold one
    return re.sub(r"(://)[^/\s]*@", r"\1", text)


def _for_people(text: str) -> str:
    """A text without credentials, and with the source's own paths: those of our copies say nothing to anybody."""
    return _WORD.sub(lambda word: _SCRATCH.sub("", word[0]), without_credentials(text.strip()))


class BatonError(Exception):
    """Something a person has to put right: one sentence of cause, one of fix."""

    def __init__(self, cause: str, fix: str) -> None:
        self.cause = _for_people(cause)
        self.fix = _for_people(fix)
        super().__init__(f"{self.cause} {self.fix}")


def find_file(name: str, folders: Iterable[str | Path]) -> Path | None:
    """A file by its path, which may be relative to one of these folders or to a home; None where none is."""
    places = (Path(folder) / Path(name).expanduser() for folder in folders)
    return next((place for place in places if place.is_file()), None)


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a folder with this mode, and those that lack on the way to it for everybody to pass, whatever the umask."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(mode)


class CommandError(Exception):
    """A command ended with another status than 0, could not be started, or took too long."""

    def __init__(self, argv: Sequence[str], status: int | None, output: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.output = without_credentials(output)
        super().__init__(without_credentials(f"{' '.join(self.argv)}: {self.last_lines()}"))

    def last_lines(self, count: int = 12) -> str:
        """The end of what the command said, where compilers and resolvers put the reason."""
        lines = [line.rstrip()[-LONGEST:] for line in self.output.splitlines() if line.strip()]
        return "\n".join(lines[-count:]).rstrip(".")


def run(
    argv: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 900,
) -> str:
    """Run a command without a shell and return its standard output. A variable that is None is taken out."""
    words = [str(word) for word in argv]
    variables = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    try:
        done = bounded.run(words, cwd=cwd, env=variables, timeout=timeout, output=MOST)
    except FileNotFoundError as error:
        raise CommandError(words, None, str(error)) from None
    if done.status is None:
        raise CommandError(words, None, f"no end after {timeout:.0f} s")
    output = _text(done.output)
    if done.status != 0:
        raise CommandError(words, done.status, _text(done.errors).strip() or output)
    if done.cut:
        raise CommandError(words, 0, f"it printed more than {MOST >> 20} MiB")
    return output


def _text(said: bytes) -> str:
    return said.decode(errors="surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
