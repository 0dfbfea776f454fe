"""Find what templates of settings need and nothing defines.

Ansible takes such a setting for one that isn't given, and its default for the operator's choice: without TLS, or
without the application's processes. Templates are only parsed here: lookups in them may be slow, or change something.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jinja2
import jinja2.defaults
import jinja2.meta
from ansible.template import is_trusted_as_template

# variables and functions of Ansible that a host's variables don't contain
_BUILT_IN = {*jinja2.defaults.DEFAULT_NAMESPACE, "lookup", "query", "q", "now", "undef", "omit", "vars", "hostvars"}
_BUILT_IN |= {"environment", "item", "play_hosts", "role_name", "role_names", "role_path"}
_GIVEN_LATER = ("ansible_", "baton_", "__")
# a template that tests whether variables are defined needs none
_TESTS = re.compile(r"\b(default|d|defined|undefined)\b")
# only to parse: nothing is rendered
_PARSER = jinja2.Environment(autoescape=True, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])


def problems(values: Mapping[str, Any], names: Iterable[str], later: Collection[str]) -> list[str]:
    """Return a sentence for each setting whose template can't be parsed, or needs a variable that isn't defined.

    `values`: a host's variables, unevaluated. `names`: the settings. `later`: variables of the playbooks and roles.
    """
    sentences = []
    for name in sorted(values.keys() & set(names)):
        try:
            missing = _missing(values[name], values, later)
        except jinja2.TemplateSyntaxError as error:
            sentences.append(f"{name} needs a template that can't be parsed: {error.message}. Correct the template.")
            continue
        if missing:
            sentences.append(
                f"{name} needs {', '.join(missing)}, which is not defined. Define it, such as in a vault, or correct "
                "the name in the template."
            )
    return sentences


def used(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the settings that a host has, and the variables that their templates name, unevaluated.

    `values`: a host's variables, unevaluated. `names`: the settings.
    """
    found: dict[str, Any] = {}
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        if name in values and name not in found:
            found[name] = values[name]
            # `problems` reports templates that can't be parsed
            with contextlib.suppress(jinja2.TemplateSyntaxError):
                waiting.update(*map(_named, written(values[name])))
    return found


def _missing(value: Any, values: Mapping[str, Any], later: Collection[str]) -> list[str]:
    waiting, seen, missing = [value], set[str](), []
    while waiting:
        for text in written(waiting.pop()):
            for name in _needed(text) - seen:
                seen.add(name)
                if name in values:
                    waiting.append(values[name])
                elif name not in later and not name.startswith(_GIVEN_LATER):
                    missing.append(name)
    return sorted(missing)


def written(value: Any) -> Iterator[str]:
    """Yield the templates in a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from written(one)
    elif isinstance(value, str) and ("{{" in value or "{%" in value) and is_trusted_as_template(value):
        yield str(value)


def _needed(text: str) -> frozenset[str]:
    """Return the variables without which a text can't be evaluated."""
    named = _named(text)
    return frozenset() if _TESTS.search(text) else named


@functools.cache
def _named(text: str) -> frozenset[str]:
    """Return the variables in a template."""
    return frozenset(jinja2.meta.find_undeclared_variables(_PARSER.parse(text)) - _BUILT_IN)
