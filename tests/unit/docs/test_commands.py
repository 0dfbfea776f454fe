"""Every documented command works as written: its program can parse it, and everything that it refers to exists."""

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
# paths that the reader creates or has
OWN = re.compile(r"^(inventories/production|/|~|\.venv|\.\./)")
# a variable of Ansible, or of the reader's inventory
NOT_OURS = re.compile(r"^ansible_")


def documents() -> Iterator[pathlib.Path]:
    for pattern in ("*.md", "docs/*.md", "roles/*/README.md", "app/*.md", "handover/*.md"):
        yield from PROJECT.glob(pattern)


def commented() -> Iterator[pathlib.Path]:
    yield from PROJECT.glob("playbooks/*.yml")
    yield from PROJECT.glob("site.yml")
    yield from (path for path in PROJECT.glob("inventories/**/*") if path.is_file())


def with_messages() -> Iterator[pathlib.Path]:
    """Files that contain commands for people, in text or messages."""
    yield from documents()
    yield from commented()
    for pattern in ("playbooks/phases/*.yml", "playbooks/tasks/**/*.yml", "roles/*/tasks/*.yml", "plugins/**/*.py"):
        yield from PROJECT.glob(pattern)


def blocks(text: str) -> Iterator[str]:
    """The lines of fenced blocks; lines that a backslash continues are joined."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def commands() -> list[tuple[str, str]]:
    """Each command with its file."""
    found = []
    for path in documents():
        text = path.read_text(encoding="utf-8")
        lines = [*blocks(text), *re.findall(r"`((?:ansible-\w+|make) [^`\n]+)`", text)]
        found += [(str(path.relative_to(PROJECT)), line.strip()) for line in lines]
    for path in commented():
        lines = re.findall(r"^\s*#\s+(ansible-\w+ .*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [(str(path.relative_to(PROJECT)), line.strip()) for line in lines]
    # what to try next, each with an explanation
    lines = re.findall(r"^  (\S+ .*?)   ", (PROJECT / "scripts/demo").read_text(encoding="utf-8"), re.MULTILINE)
    found += [("scripts/demo", line) for line in lines]
    programs = (*PROGRAMS, "make", "cp")
    return [(place, line) for place, line in found if line.split(maxsplit=1)[:1] in [[one] for one in programs]]


def extra_variables() -> list[tuple[str, str]]:
    """Each `-e` in text for people, with its file."""
    found = []
    for path in with_messages():
        words = re.findall(r"""-e (?:'(\{[^']*\})'|"(\w+='[^"]*')"|(\w+=[^\s`'",;:.)…]*))""", path.read_text())
        found += [(str(path.relative_to(PROJECT)), next(filter(None, one))) for one in words]
    return found


@pytest.fixture(scope="module")
def readers() -> str:
    """The text of all files that read variables."""
    patterns = ("site.yml", "playbooks/**/*.yml", "roles/*/meta/argument_specs.yml", "roles/*/defaults/*.yml")
    return "\n".join(path.read_text(encoding="utf-8") for one in patterns for path in PROJECT.glob(one))


def check_variables(text: str, readers: str) -> None:
    assert not cut(text), f"Ansible cuts {text}"
    if text.startswith("@"):
        return
    values = yaml.safe_load(text) if text.startswith("{") else parse_kv(text)
    for name in values:
        assert NOT_OURS.match(name) or re.search(rf"(?<![\w-]){name}\b(?!=)", readers), f"nothing reads {name}"


def parsed(words: list[str]) -> argparse.Namespace:
    cli = PROGRAMS[words[0]](words)
    cli.init_parser()
    options: argparse.Namespace = cli.parser.parse_args(words[1:])
    return options


def test_commands_are_found() -> None:
    places = {place for place, _ in commands()}
    assert {"README.md", "docs/operations.md", "playbooks/logs.yml", "playbooks/exec.yml", "scripts/demo"} <= places
    assert len(extra_variables()) > 30


@pytest.mark.parametrize(("place", "command"), commands())
def test_documented_command_is_valid(place: str, command: str, readers: str) -> None:
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
        # a playbook of the collection
        name = playbook.removeprefix("baton.web.")
        path = PROJECT / playbook if name == playbook else PROJECT / f"playbooks/{name}.yml"
        assert path.exists(), f"{place}: there is no {playbook}"
    for text in getattr(options, "extra_vars", None) or []:
        check_variables(text, readers)


@pytest.mark.parametrize("text", sorted({text for _, text in extra_variables()}))
def test_documented_extra_variable_is_read_somewhere(text: str, readers: str) -> None:
    check_variables(text, readers)


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
def test_value_that_ansible_would_cut_is_detected(text: str, name: str) -> None:
    assert cut(text) == name
