"""nginx's syntax: what would fail only on the host is named with its line, and what nginx accepts isn't refused."""

from __future__ import annotations

import pathlib
import subprocess

import pytest
from ansible_collections.baton.web.plugins.module_utils.edge import syntax

from tests.support.local_nginx import program

GOOD = (
    "",
    "# nothing; {",
    "set $x 1; # it's a comment }",
    "location = /x {\n    return 204;\n}",
    'location / { if ($uri ~ "^/a{2}(;|})") { return 403; } }',
    "add_header X-A 'it is \"quoted\"; {';",
    'set $x "a\\"b";',
    "set $x it's#one;",
    "set $x ${uri}a;",
    "set $x a\\;b\\{;",
    "set $x '1\n2;';",
)
BAD = {
    "set $x 1": 'the directive in line 1 lacks a ";".',
    "location / {\n    set $x 1\n}": 'the directive in line 2 lacks a ";" before the "}" in line 3.',
    "location / {\n    set $x 1;\n": 'the "{" in line 1 isn\'t closed.',
    "location / {\n    if ($x) { set $x 1;\n}": 'the "{" in line 1 isn\'t closed.',
    "set $x 1;\n}": 'the "}" in line 2 closes nothing.',
    'set $x 1;\n\nset $x "a;\nset $y 1;': "the quote or backslash in line 3 has no end.",
    "set $x 1;;": 'the ";" in line 1 follows no directive.',
    "{ set $x 1; }": 'the "{" in line 1 follows no directive.',
}


@pytest.mark.parametrize("text", GOOD)
def test_what_nginx_accepts_is_no_problem(text: str) -> None:
    assert syntax.problem(text) == ""


@pytest.mark.parametrize("text", BAD)
def test_what_nginx_refuses_is_named_with_its_line(text: str) -> None:
    assert syntax.problem(text) == BAD[text]


def test_lua_is_left_to_nginx() -> None:
    assert syntax.problem("content_by_lua_block { local x = '}' -- it's }") == ""


@pytest.mark.parametrize("text", [*GOOD, *BAD])
def test_nginx_agrees(tmp_path: pathlib.Path, text: str) -> None:
    (tmp_path / "site.conf").write_text(text)
    scratch = "".join(f"{kind}_temp_path {tmp_path};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {scratch} server {{\n"
        f"listen unix:{tmp_path}/socket; include {tmp_path}/site.conf;\n}} }}\n"
    )
    words = [program(), "-t", "-q", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is (text in GOOD), done.stderr
