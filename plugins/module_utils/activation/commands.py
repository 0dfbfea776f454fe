"""Look up the programs that the commands of process types and schedules run first, before anything is touched.

Without it, a misspelt command would be found only when it runs: for a type with `replace` after its old processes have
ended, for a schedule at its time.
"""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Iterator

from ..app import transient_unit
from ..app.layout import Application

MISSING = "missing: "  # begins the lines of the lookup's output
UNCHECKED = "Before the change, the commands of app_processes and app_schedules could not be checked in the release: "
NO_MODULE = 3  # exit status
# words whose meaning doesn't depend on the shell
_PLAIN = re.compile(r"[A-Za-z0-9_.+/][A-Za-z0-9_.+/-]*")
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*=(?s:.*)"
# what may stand before a shell's program, and between each of these programs and the one that it executes; after other
# options, a word may be an option's value
_SHELL = re.compile(rf"exec|{_VARIABLE}")
_WRAPPERS = {
    "env": re.compile(_VARIABLE),
    "nice": re.compile(r"-n|(-n)?-?[0-9]+"),
    "nohup": re.compile(r"(?!)"),
    "stdbuf": re.compile(r"-[ioe](L|[0-9]+)"),
    "timeout": re.compile(r"[0-9.]+[smhd]?"),
}
# variables that determine what is found
_SEARCHED = re.compile(r"(PATH|PYTHONPATH|PYTHONHOME)=")
_PYTHON = re.compile(r"python(3(\.[0-9]+)?)?")
_PYTHON_FLAGS = re.compile(r"-[bBdEIOqsSuv]+")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
# where processes may create files later, and the current release
_CHANGING = ("/var/", "/run/", "/tmp/", "/opt/")
# an error in the package of a module isn't a misspelt name
_FIND = (
    "import importlib.util, sys\n"
    "try: found = importlib.util.find_spec(sys.argv[1])\n"
    "except ModuleNotFoundError as error: found = not f'{sys.argv[1]}.'.startswith(f'{error.name}.') or None\n"
    f"sys.exit({NO_MODULE} if found is None else 0)"
)


class LookupFailedError(Exception):
    """The commands can't be looked up. The message says why."""


def programs(command: str) -> list[tuple[str, str]]:
    """Return what a shell command runs first: each `program`, and the `module` or `file` that Python runs.

    There are several programs if they execute one another. Leaves out what can't be told without running the command.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:  # a quote isn't closed
        return []
    found: list[tuple[str, str]] = []
    before: re.Pattern[str] | None = _SHELL
    while before:
        while words and before.fullmatch(words[0]):
            if _SEARCHED.match(words.pop(0)):
                return found
        if not words or not _is_lasting(words[0]):
            return found
        found.append(("program", words.pop(0)))
        name = found[-1][1].rpartition("/")[2]
        before = _WRAPPERS.get(name)
    if name in ("sh", "bash") and words[:1] == ["-c"]:
        found += programs("".join(words[1:2]))
    if _PYTHON.fullmatch(name):
        while words and _PYTHON_FLAGS.fullmatch(words[0]):
            del words[0]
        if words[:1] == ["-m"]:
            found += [("module", word) for word in words[1:2] if _MODULE.fullmatch(word)]
        else:
            found += [("file", word) for word in words[:1] if _is_lasting(word)]
    return found


def _is_lasting(word: str) -> bool:
    return bool(_PLAIN.fullmatch(word)) and not word.startswith(_CHANGING)


def of_host(app: Application) -> dict[str, str]:
    """Return the commands of the types, checks and schedules that run on this host, by setting."""
    return {
        f"{setting}.{key}": command
        for setting, about in app.declared.items()
        if about.get("count") or about.get("runs")
        for key in ("command", "check")
        # settings that an earlier version wrote have no commands
        if isinstance(command := about.get(key), str) and command
    }


def script(commands: dict[str, str]) -> str:
    """Return a shell script that prints MISSING, the setting, and each program, module or file that it doesn't find."""
    return "\n".join(line for setting, command in commands.items() for line in _lookups(setting, command))


def _lookups(setting: str, command: str) -> Iterator[str]:
    python = ""
    for kind, word in programs(command):
        report = f"echo {shlex.quote(f'{MISSING}{setting} {kind} {word}')}"
        if kind == "program":
            python = word
            yield f"command -v {word} >/dev/null || {report}"
        elif kind == "file":
            yield f"test -e {word} || {report}"
        else:
            yield f"{python} -c {shlex.quote(_FIND)} {word} >/dev/null 2>&1; test $? -ne {NO_MODULE} || {report}"


def lookup(app: Application, release: str, timeout: float) -> str:
    """Look up the commands in a release, in one process like theirs. Returns the problems; empty if there are none.

    Raises LookupFailedError.
    """
    text = script(of_host(app))
    if not text:
        return ""
    unit = f"{app.name}-lookup-{uuid.uuid4().hex[:8]}.service"
    try:
        # succeeds whatever the last line finds
        argv = transient_unit.invocation(app, release, f"{text}\ntrue", round(timeout), unit)
    except OSError as error:  # the service's unit can't be read
        raise LookupFailedError(str(error)) from None
    status, output = transient_unit.run(argv, timeout + 60, unit)
    if status != 0:
        raise LookupFailedError(output.strip() or f"exit code {status}")
    found = [line.removeprefix(MISSING).split() for line in output.splitlines() if line.startswith(MISSING)]
    return " ".join(
        f"{setting} runs the {kind} {word}, which the host and this release don't have. Correct the command, or add "
        f"the {kind}."
        for setting, kind, word in found
    )
