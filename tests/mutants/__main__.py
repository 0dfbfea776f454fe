"""Mutation tests: changes the modules of modules.toml in thousands of small ways and runs their tests.

    python -m tests.mutants [--changed BASE] [--sample N] [--jobs N] [--floor PERCENT] [--report FILE] [MODULE ...]

A mutant that no test detects has survived. A module's score is the share of killed mutants, without those that
modules.toml lists as equivalent. Exits with 1 if the total score is below the floor.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import dataclasses
import io
import json
import math
import multiprocessing
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test, mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome

ROOT = pathlib.Path(__file__).parents[2]
SETTINGS = ROOT / "tests/mutants/modules.toml"
SEED = 1
LEAST, FACTOR = 10.0, 3.0  # a mutant hangs if its tests exceed LEAST seconds plus FACTOR times their normal duration
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


@dataclasses.dataclass(frozen=True)
class Module:
    """A module and the tests that must detect its mutants."""

    path: str
    tests: tuple[str, ...]
    package: str = ""  # a package with its own environment and tests
    sample: int = 0  # mutants per run; 0 for all

    def command(self, folder: pathlib.Path) -> str:
        """The command that runs its tests in the work tree `folder`."""
        python, tests = sys.executable, [str(folder / test) for test in self.tests]
        # the long profile would make each mutant take minutes
        source = ["env", "-u", "PYTEST_ADDOPTS", "-u", "BATON_TEST_LONG"]
        options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", f"--rootdir={folder}"]
        if self.package:
            venv = subprocess.check_output([ROOT / "scripts/package-venv", self.package], cwd=ROOT, text=True)
            python = f"{venv.strip()}/bin/python"
            source += [f"PYTHONPATH={folder / self.package / 'src'}"]
            options += ["-c", str(folder / self.package / "pyproject.toml")]
        return shlex.join([*source, python, "-m", "pytest", *options, *tests])


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mutant and its result."""

    path: str
    line: int
    before: str
    after: str
    killed: bool
    seconds: float

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n  - {self.before.strip()}\n  + {self.after.strip()}"


def main() -> int:
    """Run the mutants, report, and compare the score with the floor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="names such as history; default: all")
    parser.add_argument("--changed", metavar="BASE", help="only lines that differ from this commit")
    parser.add_argument("--sample", type=int, help="the most mutants per module, always the same ones; 0: all")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--floor", type=float, default=0.0, metavar="PERCENT")
    parser.add_argument(
        "--report", type=pathlib.Path, metavar="FILE", help="write each mutant's result as a line of JSON"
    )
    arguments = parser.parse_args()
    os.nice(10)
    known = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    modules = [Module(**{**one, "tests": tuple(one["tests"])}) for one in known["module"]]
    names = {pathlib.Path(module.path).stem for module in modules}
    if unknown := set(arguments.modules) - names:
        parser.error(f"unknown modules: {', '.join(sorted(unknown))}; known are {', '.join(sorted(names))}")
    found: list[Mutant] = []
    for module in modules:
        if arguments.modules and pathlib.Path(module.path).stem not in arguments.modules:
            continue
        size = module.sample if arguments.sample is None else arguments.sample
        mutations = list(mutations_of(module, arguments.changed))
        if size and len(mutations) > size:
            mutations = random.Random(SEED).sample(mutations, size)
        found += run(module, mutations, arguments.jobs, known.get("equivalent", []), arguments.report)
    for one in found:
        if not one.killed:
            print(f"survived: {one}")
    if not found:
        print("no mutants" + (f": no line has changed since {arguments.changed}" if arguments.changed else ""))
        return 0
    killed = sum(one.killed for one in found)
    percent = 100.0 * killed / len(found)
    print(f"{killed} of {len(found)} mutants killed: {percent:.1f} %; the floor is {arguments.floor:g} %")
    return int(percent < arguments.floor)


def mutations_of(module: Module, base: str | None) -> Iterator[MutationSpec]:
    """A module's mutations in a fixed order; only those in lines that differ from the commit `base`, if it is given.

    Type annotations are excluded, because nothing evaluates them, and so are the asterisks of signatures and arguments,
    which aren't operators.
    """
    text = (ROOT / module.path).read_text(encoding="utf-8")
    idle, lines = annotated(text) + asterisks(text), changed(module.path, base) if base else None
    with use_db(":memory:", WorkDB.Mode.create) as database:
        init([pathlib.Path(module.path)], database, {})
        specs = [item.mutations[0] for item in database.work_items]
    for spec in sorted(specs, key=lambda one: (one.start_pos, one.operator_name, one.occurrence)):
        inside = any(start <= tuple(spec.start_pos) and tuple(spec.end_pos) <= end for start, end in idle)
        hit = lines is None or lines & set(range(spec.start_pos[0], spec.end_pos[0] + 1))
        if hit and not inside:
            yield spec


def annotated(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The start and end positions of all type annotations."""
    found = []
    for node in ast.walk(ast.parse(text)):
        for name in ("annotation", "returns"):
            one = getattr(node, name, None)
            if isinstance(one, ast.expr) and one.end_lineno is not None and one.end_col_offset is not None:
                found.append(((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)))
    return found


def asterisks(text: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The start and end positions of all `*` and `**` that are no operators of two operands."""
    found, previous = [], ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NL, tokenize.COMMENT):
            continue
        if token.string in ("*", "**") and previous in ("(", "[", "{", ",", ":", "lambda"):
            found.append((token.start, token.end))
        previous = token.string
    return found


def changed(path: str, base: str) -> set[int]:
    """The lines of a file that differ from a commit."""
    diff = subprocess.check_output(["git", "diff", "-U0", base, "--", path], cwd=ROOT, text=True)
    lines: set[int] = set()
    for start, count in re.findall(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", diff, re.MULTILINE):
        lines |= set(range(int(start), int(start) + int(count or 1)))
    return lines


def run(
    module: Module,
    mutations: Sequence[MutationSpec],
    jobs: int,
    equivalent: Sequence[dict[str, str]],
    report: pathlib.Path | None,
) -> list[Mutant]:
    """Test the mutations. Equivalent mutants are excluded from the result."""
    if not mutations:
        return []
    began = time.monotonic()
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as scratch,
        context.Pool(min(jobs, len(mutations)), _prepare, (module, scratch, counter)) as pool,
    ):
        found = []
        for one in pool.imap_unordered(_try, mutations):
            same = [
                known["reason"]
                for known in equivalent
                if one and one.path.endswith(known["module"])
                and (known["before"], known["after"]) == (one.before.strip(), one.after.strip())
            ]  # fmt: skip
            if one and not same:
                found.append(one)
                if report:
                    with report.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(dataclasses.asdict(one)) + "\n")
        pool.close()
        pool.join()
    killed = sum(one.killed for one in found)
    took = time.monotonic() - began
    score = 100.0 * killed / len(found) if found else math.nan
    print(f"{module.path}: {killed} of {len(found)} killed, {score:.1f} % ({took / 60:.0f} min)", flush=True)
    return sorted(found, key=lambda one: (one.line, one.after))


_own: dict[str, Any] = {}


def _prepare(module: Module, scratch: str, counter: Any) -> None:
    """Prepare a worker process: copy the work tree, and run the tests once without a mutation."""
    # leftover processes of a mutant's tests become children of this process, which kills them
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with counter.get_lock():
        counter.value += 1
        folder = pathlib.Path(scratch) / f"tree{counter.value}"
    names = subprocess.check_output(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    )
    for name in filter(None, names.split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, folder / name, follow_symlinks=False)
    os.chdir(folder)
    command = module.command(folder)
    began = time.monotonic()
    done = subprocess.run(shlex.split(command), capture_output=True, text=True)
    _own.update(command=command, limit=LEAST + FACTOR * (time.monotonic() - began))
    _own["failure"] = "" if done.returncode == 0 else f"{done.stdout[-3000:]}{done.stderr[-1000:]}"


def _try(spec: MutationSpec) -> Mutant | None:
    if _own["failure"]:
        raise RuntimeError(f"The tests fail without any mutant:\n{_own['failure']}")
    if not _is_mutant(spec):
        return None
    began = time.monotonic()
    result = mutate_and_test([spec], _own["command"], _own["limit"])
    _end_children()
    if result.worker_outcome is not WorkerOutcome.NORMAL or result.test_outcome is TestOutcome.INCOMPETENT:
        raise RuntimeError(f"{spec}: {result.output}")
    lines = (result.diff or "").splitlines()
    before = [line[1:] for line in lines if line.startswith("-") and not line.startswith("---")]
    after = [line[1:] for line in lines if line.startswith("+") and not line.startswith("+++")]
    killed = result.test_outcome is TestOutcome.KILLED
    return Mutant(
        str(spec.module_path),
        spec.start_pos[0],
        "\n".join(before),
        "\n".join(after),
        killed,
        round(time.monotonic() - began, 1),
    )


def _is_mutant(spec: MutationSpec) -> bool:
    """Whether the result is Python: an assignment can't be negated, nor an unpacked tuple of exceptions replaced."""
    operator = get_operator(spec.operator_name)(**spec.operator_args)
    try:
        code = mutate_code(spec.module_path.read_text(encoding="utf-8"), operator, spec.occurrence)
        compile(code or "", str(spec.module_path), "exec")
    except (AttributeError, SyntaxError):
        return False
    return code is not None


def _end_children() -> None:
    """Kill all descendants of this process."""
    while pids := pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for pid in map(int, pids):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
