"""Templates of settings: what they need and nothing defines is found without evaluating them."""

from __future__ import annotations

import pytest
from ansible.template import trust_as_template
from ansible_collections.baton.web.plugins.module_utils.controller import templates


def problems(**values: object) -> list[str]:
    trusted = {name: trust_as_template(value) if isinstance(value, str) else value for name, value in values.items()}
    return templates.problems(trusted, ["setting"], {"services_ca_file"})


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("{{ vault_password }}", "vault_password"),
        ("redis://:{{ vault_password | urlencode }}@{{ vault_host }}/0", "vault_host, vault_password"),
        ("{% if is_production %}required{% endif %}", "is_production"),
        ("{{ indirect }}", "vault_indirect"),
    ],
)
def test_missing_variable_of_a_template_is_named(text: str, missing: str) -> None:
    (sentence,) = problems(setting=text, indirect="{{ vault_indirect }}")
    assert sentence.startswith(f"setting needs {missing}, which is not defined. Define it, such as in a vault")


def test_nested_values_are_searched() -> None:
    nested = {"worker": [{"command": trust_as_template("run {{ queue }}")}]}
    assert problems(setting=nested)[0].startswith("setting needs queue, ")


@pytest.mark.parametrize(
    "text",
    [
        "no template",
        "{{ known }} {{ known.part }}",
        # defined by the playbooks, the roles, or a host's facts
        "{{ services_ca_file }} {{ ansible_facts['processor_vcpus'] }} {{ baton_address }}",
        "{{ hostvars['db1'].address }} {{ lookup('ansible.builtin.env', 'X') }} {{ range(3) | list }}",
        "{% for one in known %}{{ one }}{{ loop.index }}{% endfor %}{% set x = 1 %}{{ x }}",
        "{{ unset | default('x') }}",
        "{{ unset | d('x') }}",
        "{% if unset is defined %}{{ unset }}{% endif %}",
        "{{ itself }}",
    ],
)
def test_what_can_be_evaluated_later_is_no_problem(text: str) -> None:
    assert problems(setting=text, known="x", itself="{{ itself }}", other="{{ unset }}") == []


def test_template_that_cannot_be_parsed_is_a_problem() -> None:
    (sentence,) = problems(setting="{{ a b }}")
    assert sentence.startswith("setting needs a template that can't be parsed: expected token")


def test_text_that_ansible_does_not_evaluate_is_no_template() -> None:
    assert templates.problems({"setting": "{{ vault_password }}"}, ["setting"], ()) == []


def test_used_variables_are_those_that_templates_name_also_indirectly() -> None:
    texts = {"setting": "{{ a | default(b) }}", "a": "{{ c }}{{ missing }}", "b": "{{ setting }}", "c": "x", "d": "y"}
    values = {name: trust_as_template(text) for name, text in texts.items()}
    values["broken"] = trust_as_template("{{ d d }}")
    assert sorted(templates.used(values, ["setting", "unset"])) == ["a", "b", "c", "setting"]
    assert templates.used(values, ["broken", "c"]) == {"broken": "{{ d d }}", "c": "x"}
