"""Patterns end with \\Z: in Python `$` also matches before a line break at the end of a text."""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import jinja2
import pytest
import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
LISTS = sorted(path for folder in ("roles", "playbooks") for path in (TOP / folder).rglob("*.yml"))
PROGRAMS = sorted(
    path
    for folder in ("plugins", "roles", "handover/src", "fleet")
    for path in (TOP / folder).rglob("*.py")
    if not path.is_symlink()
)
# an end of a line, unless it is escaped or in a character class; `$"` and such in messages end no pattern
END = re.compile(r"""(?<!\\)\$(?=\Z|[)|])""")
EXPRESSIONS = ("that", "when", "failed_when", "changed_when", "until", "good")
PATTERNS = re.compile(r".*_pattern|patterns|excludes|regexp?")


def scalars(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text in a YAML document, with the nearest key above it."""
    if isinstance(node, yaml.ScalarNode):
        yield key, node.value
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from scalars(one, key)
    elif isinstance(node, yaml.MappingNode):
        for name, one in node.value:
            yield from scalars(one, str(name.value))


def loose_in_yaml(text: str) -> list[str]:
    """The texts in Jinja's expressions, and the patterns, that end with `$`."""
    found = []
    for key, value in scalars(yaml.compose(text)):
        source = "{{" + value + "}}" if key in EXPRESSIONS and "{{" not in value else value
        kinds = ("string", "data") if PATTERNS.fullmatch(key) else ("string",)
        found += [
            token.strip("'\"").strip()
            for _, kind, token in jinja2.Environment(autoescape=True).lex(source)
            if kind in kinds and END.search(token.strip().strip("'\""))
        ]
    return found


def loose_in_python(text: str) -> list[str]:
    """The patterns that end with `$` and aren't for each line of a text."""
    found = []
    for call in ast.walk(ast.parse(text)):
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("re.") and call.args:
            parts = [one.value for one in ast.walk(call.args[0]) if isinstance(one, ast.Constant)]
            pattern = "".join(part.decode("latin1") if isinstance(part, bytes) else str(part) for part in parts)
            if END.search(pattern) and "re.MULTILINE" not in ast.unparse(call):
                found.append(pattern)
    return found


@pytest.mark.parametrize("path", LISTS, ids=lambda path: str(path.relative_to(TOP)))
def test_no_pattern_of_a_role_or_a_playbook_accepts_a_line_break_at_its_end(path: pathlib.Path) -> None:
    assert loose_in_yaml(path.read_text()) == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(TOP)))
def test_no_pattern_of_a_program_accepts_a_line_break_at_its_end(path: pathlib.Path) -> None:
    assert loose_in_python(path.read_text()) == []


def test_the_search_finds_the_end_of_a_line() -> None:
    assert loose_in_yaml("that: [\"a is regex('^b$')\", \"c is regex('^d(e|$)')\", \"f is regex('[$]')\"]") == [
        "^b$",
        "^d(e|$)",
    ]
    assert loose_in_yaml("""__a_pattern: '^({{ b | join("|") }})$'""") == [")$"]
    assert loose_in_yaml("good: \"{{ a is regex('^b\\\\Z') }}\"") == []
    assert loose_in_python("re.match(rf'{a}$', b)") == ["$"]
    assert loose_in_python("re.findall('^a$', b, re.MULTILINE)") == []
