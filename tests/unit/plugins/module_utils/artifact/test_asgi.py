from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
from ansible_collections.baton.web.plugins.module_utils.artifact import asgi
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

Write = Callable[..., pathlib.Path]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("main:app", ("main", "app")),
        ("pkg.main:create_app()", ("pkg.main", "create_app()")),
        ("pkg.main:factory('prod', debug=False)", ("pkg.main", "factory('prod', debug=False)")),
        ("pkg.main:server.asgi", ("pkg.main", "server.asgi")),
        ("main", ("main", "application")),
    ],
)
def test_import_strings(given: str, expected: tuple[str, str]) -> None:
    assert asgi.split(given) == expected


@pytest.mark.parametrize("given", ["", "pkg/main:app", "main:", "main:app[0]", "main:f(x)", "main:1", "a-b:c"])
def test_invalid_import_string_is_refused(given: str) -> None:
    with pytest.raises(BatonError):
        asgi.split(given)


def test_module_is_found_in_an_import_path_or_a_wheel(write: Write) -> None:
    root = write("a", {"src/pkg/main.py": "", "top.py": "", "space/inner.py": ""})
    for module in ("pkg.main:app", "top:app", "space.inner:app", "fromwheel.app:x"):
        asgi.check(module, [root / "src", root], root, ["fromwheel.app"])


def test_misspelt_module_is_reported_with_suggestions(write: Write) -> None:
    root = write("a", {"src/pkg/main.py": "", "src/pkg/__init__.py": ""})
    with pytest.raises(BatonError, match=r"pkg\.mian.*searched src, \. of the source.*pkg\.main"):
        asgi.check("pkg.mian:app", [root / "src", root], root, [])
    with pytest.raises(BatonError, match=r"Similar modules: pkg\.main"):
        asgi.check("main:app", [root / "src"], root, [])


def test_module_below_several_import_paths_is_suggested_once(write: Write) -> None:
    root = write("a", {"src/pkg/main.py": "", "src/pkg/__init__.py": "", "src/libs/pkg/mains.py": ""})
    for roots in (["src/libs", "src", "."], [".", "src", "src/libs"]):
        with pytest.raises(BatonError, match=r"Similar modules: pkg\.main, pkg\.mains\. "):
            asgi.check("pkg.mian:app", [root / path for path in roots], root, [])


def test_dot_instead_of_the_colon_is_reported_with_the_import_string(write: Write) -> None:
    root = write("a", {"src/pkg/main.py": "", "src/pkg/__init__.py": ""})
    for module in ("pkg.main.app", "fromwheel.app"):
        with pytest.raises(BatonError, match=rf"'{module}' has no colon.*: {module.rpartition('.')[0]}:app$"):
            asgi.check(module, [root / "src"], root, ["fromwheel"])
    for module in ("pkg.main.app:app", "pkg.mian"):
        with pytest.raises(BatonError, match="Similar modules"):
            asgi.check(module, [root / "src"], root, [])
