from __future__ import annotations

import pathlib

import pytest
from ansible_collections.baton.web.plugins.module_utils.app import floors
from ansible_collections.baton.web.plugins.module_utils.artifact.server_versions import SUPPORTED
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("1.3.1", False), ("1.3.0", True), ("1.10.0", False), ("0.47.3", True), ("1.3", True), ("1.3.1.0", False),
        ("1.3.1rc1", True), ("1.3.1.dev2", True), ("1.3.1.post1", False), ("1.3.1+local", False), ("1!0.1", False),
        ("v1.3.1", False), ("2", False), ("1.3.1-1", False), ("", False), ("unknown", False), ("1" * 5000, False),
        ("1.3.1RC1", True), ("\N{ARABIC-INDIC DIGIT ONE}.0", False),
    ],
)  # fmt: skip
def test_versions_are_compared_as_pip_does(version: str, old: bool) -> None:
    assert ("starlette" in floors.old({"starlette": version})) == old


part = st.integers(0, 99).map(str)
versions = st.builds(
    lambda epoch, release, end: epoch + ".".join(release) + end,
    st.sampled_from(["", "1!"]),
    st.lists(part, min_size=1, max_size=4),
    st.sampled_from(["", "rc1", "a2", "b3", ".dev4", ".post5", "+local.6"]),
)


@given(versions, versions)
def test_order_matches_packaging(first: str, second: str) -> None:
    one, other = floors.order(first), floors.order(second)
    assert one is not None
    assert other is not None
    # prereleases equal their release here, because a minimum version is a final version
    if one < other:
        assert Version(first) < Version(second)
    if Version(first).base_version != Version(second).base_version:
        assert (one < other) == (Version(first) < Version(second))


@given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}[A-Za-z0-9]\Z"))
def test_names_are_normalised_like_those_of_an_index(name: str) -> None:
    assert floors.normal(name) == canonicalize_name(name)


def test_message_names_lock_package_version_minimum_reason_and_fix() -> None:
    with pytest.raises(BatonError) as failure:
        floors.check({"starlette": "0.47.3", "python-multipart": "0.0.9", "idna": "1"}, [], "uv.lock")
    message = str(failure.value)
    assert message.startswith("uv.lock has python-multipart 0.0.9, older than 0.0.31: ")
    assert "; starlette 0.47.3, older than 1.3.1: older ones ignore the limits" in message
    assert message.endswith(
        "Lock python-multipart>=0.0.31, starlette>=1.3.1, "
        "or deploy it anyway with app_release_allow_old_packages: [python-multipart, starlette]."
    )


def test_only_packages_allowed_by_name_are_downgraded_to_warnings() -> None:
    packages = {"starlette": "0.47.3", "python-multipart": "0.0.9"}
    with pytest.raises(BatonError, match=r"has starlette 0\.47\.3") as failure:
        floors.check(packages, ["Python_Multipart"], "uv.lock")
    assert "0.0.9" not in str(failure.value)
    warnings = floors.check(packages, ["Python_Multipart", "starlette"], "uv.lock")
    assert [warning.partition(", older")[0] for warning in warnings.values()] == [
        "uv.lock has python-multipart 0.0.9", "uv.lock has starlette 0.47.3"
    ]  # fmt: skip


def test_allowed_name_without_a_minimum_is_refused() -> None:
    with pytest.raises(BatonError, match=r"names starlet, which has no minimum version\. Name some of gunicorn, h11"):
        floors.check({}, ["starlet"], "uv.lock")


def test_minimums_of_server_packages_are_in_the_supported_range() -> None:
    for name in floors.FLOORS.keys() & SUPPORTED.keys():
        assert SpecifierSet(SUPPORTED[name]).contains(floors.FLOORS[name].version)
        assert not SpecifierSet(SUPPORTED[name]).contains("0.0.1")
    assert floors.FLOORS.keys() - SUPPORTED.keys() == {"python-multipart", "starlette"}


def test_minimum_versions_are_in_the_docs() -> None:
    text = (pathlib.Path(__file__).parents[5] / "docs/operations.md").read_text()
    assert [f"| {name} | {floor.version} |" for name, floor in floors.FLOORS.items()
            if f"\n| {name} | {floor.version} |" not in text] == []  # fmt: skip
