"""Validate app_module, an import string, without importing anything."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..host.command import BatonError
from . import source_tree
from .wheels import module_names

_SHOWN = 5


def split(module: str) -> tuple[str, str]:
    """Split an import string: 'pkg.main:create_app()' into ('pkg.main', 'create_app()'). Raises BatonError."""
    name, colon, attribute = module.strip().partition(":")
    fix = "Write app_module as `package.module:name`, `package.module:object.name` or `package.module:factory()`."
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise BatonError(f"app_module {module!r} doesn't start with the name of a module.", fix)
    if not colon:
        attribute = "application"
    try:
        expression = ast.parse(attribute.strip(), mode="eval").body
    except SyntaxError:
        raise BatonError(
            f"The part of app_module {module!r} after the colon is neither a name nor a call.", fix
        ) from None
    if isinstance(expression, ast.Call):
        try:
            for value in [*expression.args, *(keyword.value for keyword in expression.keywords)]:
                ast.literal_eval(value)
        except ValueError:
            raise BatonError(f"The factory of app_module {module!r} has arguments that aren't literals.", fix) from None
        expression = expression.func
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    if not isinstance(expression, ast.Name):
        raise BatonError(f"The part of app_module {module!r} after the colon is neither a name nor a call.", fix)
    return name, attribute.strip()


def modules_of(roots: Iterable[Path]) -> set[str]:
    """Return the dotted names of the modules below import roots, including those in namespace packages.

    A module below several roots, such as src/ and its parent, has its name below the innermost.
    """
    names: dict[Path, list[str]] = {}
    for root in sorted(roots, key=lambda root: len(root.parts)):
        if root.is_dir():
            names.update({root / path: module_names(path) for path in source_tree.walk(root)})
    return {name for found in names.values() for name in found}


def check(module: str, roots: Sequence[Path], tree_root: Path, wheel_modules: Iterable[str]) -> None:
    """Raise BatonError for a module that is neither in the import paths nor in a wheel."""
    name, _ = split(module)
    shown = []
    for root in roots:
        place = root.joinpath(*name.split("."))
        if place.with_suffix(".py").is_file() or (place / "__init__.py").is_file():
            return
        if any(place.parent.glob(f"{place.name}.*.so")):
            return
        shown.append(str(root.relative_to(tree_root)) if root != tree_root else ".")
    known = set(wheel_modules)
    if name in known:
        return
    own = modules_of(roots)
    parent, _, attribute = name.rpartition(".")
    # below a package, it may as well be a misspelt module
    is_package = any(found.startswith(f"{parent}.") for found in own | known)
    if ":" not in module and parent in own | known and not is_package:
        raise BatonError(
            f"app_module {module!r} has no colon between the module and the application's name.",
            f"Write app_module: {parent}:{attribute}",
        )
    near = difflib.get_close_matches(name, sorted(own | known), n=_SHOWN, cutoff=0.6)
    last = name.rpartition(".")[2]
    near += [found for found in sorted(own) if found.rpartition(".")[2] == last and found not in near][:_SHOWN]
    hint = f" Similar modules: {', '.join(near[:_SHOWN])}." if near else ""
    looked = f"{', '.join(shown)} of the source and the wheels" if shown else "the wheels"
    raise BatonError(
        f"app_module names the module {name}, which doesn't exist (searched {looked}).{hint}",
        "Correct app_module, app_source_subdir or app_release_import_paths.",
    )
