"""Find what templates of settings need and nothing defines.

Ansible takes such a setting for one that isn't given, and its default for the operator's choice: without TLS, or
without the application's processes. Templates are only parsed here: lookups in them may be slow, or change something.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
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


def _missing(value: Any, values: Mapping[str, Any], later: Collection[str]) -> list[str]:
    waiting, seen, missing = [value], set[str](), []
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, str) and ("{{" in one or "{%" in one) and is_trusted_as_template(one):
            for name in _needed(str(one)) - seen:
                seen.add(name)
                if name in values:
                    waiting.append(values[name])
                elif name not in later and not name.startswith(_GIVEN_LATER):
                    missing.append(name)
    return sorted(missing)


@functools.cache
def _needed(text: str) -> frozenset[str]:
    """Return the variables without which a text can't be evaluated."""
    parsed = _PARSER.parse(text)
    return frozenset() if _TESTS.search(text) else frozenset(jinja2.meta.find_undeclared_variables(parsed) - _BUILT_IN)
