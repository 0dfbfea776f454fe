"""nginx's syntax, as far as it doesn't depend on its modules: quotes, braces and semicolons."""

from __future__ import annotations

import re

# as ngx_conf_read_token: quotes and comments only begin where a word could, and ${name} is part of a word
TOKEN = re.compile(
    r"""(?P<nothing>\s+|\#[^\n]*)
      | (?P<mark>[;{}])
      | (?P<word>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*'
        | (?:\\.|\$\{\w*\}|[^\s;{}"'\#\\]) (?:\\.|\$\{\w*\}|[^\s;{}\\])*)""",
    re.VERBOSE | re.DOTALL,
)
# such a block contains Lua, with a syntax of its own
FOREIGN = "_by_lua_block"


def problem(text: str) -> str:
    """Return why nginx can't parse directives; empty if it can, or if only nginx knows."""
    if FOREIGN in text:
        return ""
    opened: list[int] = []
    begun, position, line = 0, 0, 1  # begun: the line of a directive without its end; 0 for none
    while position < len(text):
        if (found := TOKEN.match(text, position)) is None:
            return f"the quote or backslash in line {line} has no end."
        mark = found["mark"]
        if found["word"]:
            begun = begun or line
        elif mark == "}":
            if begun:
                return f'the directive in line {begun} lacks a ";" before the "}}" in line {line}.'
            if not opened:
                return f'the "}}" in line {line} closes nothing.'
            opened.pop()
        elif mark:
            if not begun:
                return f'the "{mark}" in line {line} follows no directive.'
            if mark == "{":
                opened.append(line)
            begun = 0
        line += found[0].count("\n")
        position = found.end()
    if begun:
        return f'the directive in line {begun} lacks a ";".'
    return f'the "{{" in line {opened[-1]} isn\'t closed.' if opened else ""
