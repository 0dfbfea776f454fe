"""Every documented command can be run as it stands: it is parsed by what would run it, and all that it names exists."""

from __future__ import annotations

import argparse
import pathlib
import re
import shlex
from collections.abc import Iterator

import pytest
import yaml
from ansible.cli.galaxy import GalaxyCLI
from ansible.cli.playbook import PlaybookCLI
from ansible.cli.vault import VaultCLI
from ansible.parsing.splitter import parse_kv

from plugins.callback.run import cut

PROJECT = pathlib.Path(__file__).parents[3]
PROGRAMS = {"ansible-playbook": PlaybookCLI, "ansible-vault": VaultCLI, "ansible-galaxy": GalaxyCLI}
# what a reader makes or has
OWN = re.compile(r"^(inventories/production|/|~|\.venv|\.\./)")
# a variable of Ansible's own, or of the reader's inventory
NOT_OURS = re.compile(r"^ansible_")


def documents() -> Iterator[pathlib.Path]:
    for pattern in ("*.md", "docs/*.md", "roles/*/README.md", "app/*.md", "handover/*.md"):
        yield from PROJECT.glob(pattern)


def commented() -> Iterator[pathlib.Path]:
    yield from PROJECT.glob("playbooks/*.yml")
    yield from PROJECT.glob("site.yml")
    yield from (path for path in PROJECT.glob("inventories/**/*") if path.is_file())


def said() -> Iterator[pathlib.Path]:
    """Files whose messages tell a person what to run."""
    yield from documents()
    yield from commented()
    for pattern in ("playbooks/phases/*.yml", "playbooks/tasks/**/*.yml", "roles/*/tasks/*.yml", "plugins/**/*.py"):
        yield from PROJECT.glob(pattern)


def blocks(text: str) -> Iterator[str]:
    """The lines of fenced blocks, those that go on with a backslash as one."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def commands() -> list[tuple[str, str]]:
    """Where each command stands, and the command."""
    found = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        lines = [*blocks(text), *re.findall(r"`((?:ansible-\w+|make) [^`\n]+)`", text)]
        found += [(str(path.relative_to(PROJECT)), line.strip()) for line in lines]
    for path in commented():
        lines = re.findall(r"^\s*#\s+(ansible-\w+ .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [(str(path.relative_to(PROJECT)), line.strip()) for line in lines]
    programs = (*PROGRAMS, "make", "cp")
    return [(place, line) for place, line in found if line.split(maxsplit=1)[:1] in [[one] for one in programs]]


def given() -> list[tuple[str, str]]:
    """Each `-e` in words for people, with where it stands."""
    found = []
    for path in said():
        words = re.findall(r"""-e (?:'(\{[^']*\})'|"(\w+='[^"]*')"|(\w+=[^\s`'",;:.)…]*))""", path.read_text())
        found += [(str(path.relative_to(PROJECT)), next(filter(None, one))) for one in words]
    return found


@pytest.fixture(scope="module")
def read() -> str:
    """All text that reads variables."""
    patterns = ("site.yml", "playbooks/**/*.yml", "roles/*/meta/argument_specs.yml", "roles/*/defaults/*.yml")
    return "\n".join(path.read_text(encoding="utf-8") for one in patterns for path in PROJECT.glob(one))


def check_variables(text: str, read: str) -> None:
    assert not cut(text), f"Ansible cuts {text}"
    if text.startswith("@"):
        return
    values = yaml.safe_load(text) if text.startswith("{") else parse_kv(text)
    for name in values:
        assert NOT_OURS.match(name) or re.search(rf"(?<![\w-]){name}\b(?!=)", read), f"nothing reads {name}"


def parsed(words: list[str]) -> argparse.Namespace:
    cli = PROGRAMS[words[0]](words)
    cli.init_parser()
    options: argparse.Namespace = cli.parser.parse_args(words[1:])
    return options


def test_there_are_commands_to_check() -> None:
    places = {place for place, _ in commands()}
    assert {"README.md", "docs/operations.md", "playbooks/logs.yml", "playbooks/exec.yml"} <= places
    assert len(given()) > 30


@pytest.mark.parametrize(("place", "command"), commands())
def test_a_documented_command_can_be_run(place: str, command: str, read: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)} <= targets
        return
    if words[0] == "cp":
        assert OWN.match(words[-2]) or (PROJECT / words[-2]).exists()
        return
    options = parsed(words)
    for playbook in options.args if words[0] == "ansible-playbook" else []:
        # a collection's playbook is named by it
        name = playbook.removeprefix("baton.web.")
        there = PROJECT / playbook if name == playbook else PROJECT / f"playbooks/{name}.yml"
        assert there.exists(), f"{place}: there is no {playbook}"
    for text in getattr(options, "extra_vars", None) or []:
        check_variables(text, read)


@pytest.mark.parametrize("text", sorted({text for _, text in given()}))
def test_a_variable_that_people_are_told_to_give_is_read(text: str, read: str) -> None:
    check_variables(text, read)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("command=echo hello world", "command"),
        ("since=1 hour ago", "since"),
        ("since=2026-01-31 12:00", "since"),
        ("lines=5 command=echo x", "command"),
        ("command=env A=1", "command"),
        ("command='echo' hello", "command"),
        ("hello", "hello"),
        ("grep=a b=c", "grep"),
        ("hello\\=x", "hello\\=x"),
        ("command='echo hello world'", ""),
        ('command="a b" exec_hosts=all', ""),
        ("app_version=v1 lines=5", ""),
        ('{"command": "echo hello world"}', ""),
        ("@vars file.yml", ""),
        ("command=date", ""),
        ("app_version=", ""),
    ],
)
def test_a_value_that_ansible_would_cut_is_found(text: str, name: str) -> None:
    assert cut(text) == name
