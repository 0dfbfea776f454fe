from __future__ import annotations

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact.targets import Target
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError


def target(python: str = "3.11.2", architecture: str = "x86_64", glibc: str = "2.36") -> Target:
    return Target.parse({"python": python, "architecture": architecture, "glibc": glibc})


@pytest.mark.parametrize(
    ("filename", "fits"),
    [
        ("a-1.0-py3-none-any.whl", True),
        ("a-1.0-py2.py3-none-any.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_36_x86_64.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_37_x86_64.whl", False),
        ("a-1.0-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("a-1.0-cp39-abi3-manylinux1_x86_64.whl", True),
        ("a-1.0-cp312-abi3-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1.0-cp311-cp311-manylinux_2_17_aarch64.whl", False),
        ("a-1.0-cp311-cp311-linux_x86_64.whl", True),
        ("a-1.0-cp311-cp311t-manylinux_2_17_x86_64.whl", False),
    ],
)
def test_wheel_fits_by_python_architecture_and_libc(filename: str, fits: bool) -> None:
    assert (target().rank(filename) is not None) is fits


def test_most_specific_wheel_ranks_first() -> None:
    names = [
        "a-1-py3-none-any.whl",
        "a-1-cp311-cp311-manylinux_2_17_x86_64.whl",
        "a-1-cp39-abi3-manylinux_2_17_x86_64.whl",
    ]
    ranks = [target().rank(name) for name in names]
    assert None not in ranks
    assert sorted(names, key=lambda name: target().rank(name) or 0) == [names[1], names[2], names[0]]


def test_patch_release_decides_markers_if_it_is_known() -> None:
    marker = "python_full_version < '3.11.3'"
    assert target("3.11.2").holds(marker)
    assert not target("3.11.9").holds(marker)
    assert target("3.11").holds(marker), "if unknown, rather install one package too many"
    assert target("3.11.2").key == target("3.11.9").key


def test_requires_python() -> None:
    assert target("3.11.2").allows(">=3.11,<3.14")
    assert not target("3.11.2").allows(">=3.11.4")
    assert target("3.11").allows(">=3.11.4")
    assert not target("3.11").allows(">=3.12")


@pytest.mark.parametrize(
    "raw",
    [
        {"python": "3", "architecture": "x86_64", "glibc": "2.36"},
        {"python": "3.11"},
        {"python": "3.11", "architecture": "x86_64/../..", "glibc": "2.36"},
    ],
)
def test_incomplete_target_is_refused(raw: dict[str, str]) -> None:
    with pytest.raises(BatonError, match="incomplete"):
        Target.parse(raw)
