"""Every message that docs/operations.md explains is one that Baton writes."""

from __future__ import annotations

import functools
import pathlib
import re

import pytest

PROJECT = pathlib.Path(__file__).parents[3]
# parts of a message without anything that differs between runs: numbers, names, ends of words
VARYING = re.compile(r"…|\d+ of \d+ \w+|\d[\w.]*(?: s\b)?")


def explained() -> list[str]:
    """The parts of the messages in the first column of the table of symptoms."""
    text = (PROJECT / "docs/operations.md").read_text(encoding="utf-8")
    table = text.split("## When something is wrong")[1].split("\n## ")[0]
    messages = [message for row in table.splitlines() for message in re.findall(r'^\| [^|"]*"([^|"]+)" \|', row)]
    parts = [part.strip(" .") for message in messages for part in VARYING.split(message)]
    return [part for part in parts if part and len(part.split()) > 1]


@functools.cache
def written() -> str:
    """The texts of the sources, with literals joined, and without what is inserted into them."""
    texts = []
    for pattern in ("plugins/**/*.py", "playbooks/**/*.yml", "roles/*/tasks/*.yml", "roles/*/files/*.py"):
        texts += [path.read_text(encoding="utf-8") for path in PROJECT.glob(pattern)]
    joined = re.sub(r"[\"']\s*\n\s*f?[\"']", "", "\n".join(texts))
    return " ".join(re.sub(r"\{\{.*?\}\}|\{[^{}\n]*\}", "", joined).split())


def test_messages_are_found() -> None:
    assert len(explained()) > 15


@pytest.mark.parametrize("part", explained())
def test_explained_message_is_written(part: str) -> None:
    assert part in written()
