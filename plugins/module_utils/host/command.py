"""Run commands, and the error type that ends a module with cause and fix."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import bounded

MOST = 2**26  # bytes of output that a command may print
LONGEST = 2**13  # characters of a line of output in a message
# variables with which uv on a host uses only what the controller sent
OFFLINE_UV = {
    "UV_NO_CONFIG": "1",
    "UV_OFFLINE": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "NO_COLOR": "1",
}

# paths of Baton's temporary copies of a source. Matched word by word: on long untrusted text, a search for the whole
# pattern would take quadratic time
_WORD = re.compile(r"(?:file:)?[^\s'\"`(:]+")
_SCRATCH = re.compile(r"\A.*/baton-(?:artifact|build|git|index|resolve)-\w+/(?:(?:src|source|plain)/)?")


def without_credentials(text: str) -> str:
    """Return a text with user names and passwords removed from URLs: messages are stored on hosts and shown."""
    # up to the last @ before the path: a password may contain one
    return re.sub(r"(://)[^/\s]*@", r"\1", text)


def _for_message(text: str) -> str:
    """Return a text without credentials, and with paths in the source instead of Baton's temporary copies."""
    return _WORD.sub(lambda word: _SCRATCH.sub("", word[0]), without_credentials(text.strip()))


class BatonError(Exception):
    """An error that the operator has to fix, with one sentence of cause and one of fix."""

    def __init__(self, cause: str, fix: str) -> None:
        self.cause = _for_message(cause)
        self.fix = _for_message(fix)
        super().__init__(f"{self.cause} {self.fix}")


def resolve(name: str, folders: Iterable[str | Path]) -> list[str]:
    """Return the absolute paths that a path means, which may be relative to one of the folders or to a home."""
    path = os.path.expanduser(name)
    if os.path.isabs(path):
        return [path]
    return list(dict.fromkeys(os.path.normpath(os.path.join(folder, path)) for folder in folders))


def find_file(name: str, folders: Iterable[str | Path], setting: str) -> Path:
    """Return the controller's file that the `src` of a setting's entry means. Raises BatonError if there is none."""
    tried = resolve(name, folders)
    for place in tried:
        if os.path.isfile(place):
            return Path(place)
    raise BatonError(f"{setting}: {' or '.join(tried)} is not a file on the controller.", "Correct src.")


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Create a folder with a mode, and missing parents with mode 0755, regardless of the umask."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(mode)


class CommandError(Exception):
    """A command failed, could not be started, or exceeded its timeout."""

    def __init__(self, argv: Sequence[str], status: int | None, output: str) -> None:
        self.argv = list(argv)
        self.status = status
        self.output = without_credentials(output)
        super().__init__(without_credentials(f"{' '.join(self.argv)}: {self.last_lines()}"))

    def last_lines(self, count: int = 12) -> str:
        """Return the end of the output, where compilers and resolvers print the reason."""
        lines = [line.rstrip()[-LONGEST:] for line in self.output.splitlines() if line.strip()]
        return "\n".join(lines[-count:]).rstrip(".")


def run(
    argv: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str | None] | None = None,
    timeout: float = 900,
) -> str:
    """Run a command without a shell and return its standard output. Raises CommandError.

    `env`: additional variables; None removes one.
    """
    words = [str(word) for word in argv]
    variables = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
    try:
        done = bounded.run(words, cwd=cwd, env=variables, timeout=timeout, output=MOST)
    except FileNotFoundError as error:
        raise CommandError(words, None, str(error)) from None
    if done.status is None:
        raise CommandError(words, None, f"it didn't end within {timeout:.0f} s")
    output = _text(done.output)
    if done.status != 0:
        raise CommandError(words, done.status, _text(done.errors).strip() or output)
    if done.cut:
        raise CommandError(words, 0, f"it printed more than {MOST >> 20} MiB")
    return output


def _text(output: bytes) -> str:
    return output.decode(errors="surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
