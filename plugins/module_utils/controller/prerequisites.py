"""Checks of the controller's tools before a playbook runs."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence

MINIMUM_ANSIBLE = (2, 19)
PROGRAMS = ("uv", "ssh", "git")
REQUIREMENTS = pathlib.Path(__file__).parents[3] / "requirements.txt"
SETUP = f"run `make setup` in a checkout of Baton, elsewhere `pip install --require-hashes -r {REQUIREMENTS}`"


def installed_collections(roots: Sequence[str]) -> dict[str, str]:
    """Return name and version of the collections below the given folders; the first folder takes precedence."""
    found: dict[str, str] = {}
    for root in roots:
        for manifest in sorted(pathlib.Path(root).expanduser().glob("ansible_collections/*/*/MANIFEST.json")):
            about = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]
            found.setdefault(f"{about['namespace']}.{about['name']}", about["version"])
    return found


def problems(
    *,
    ansible_version: str,
    wanted: Sequence[Mapping[str, str]],
    installed: Mapping[str, str],
    program_folder: str | None = None,
) -> list[str]:
    """Return a sentence with the fix for each missing prerequisite.

    `wanted`: entries of requirements.yml, whose version has the form `>=X.Y.Z` or is absent.
    """
    found = []
    if _numbers(ansible_version) < MINIMUM_ANSIBLE:
        least = ".".join(map(str, MINIMUM_ANSIBLE))
        found.append(
            f"This playbook needs ansible-core {least} or newer, and {ansible_version} runs it: "
            f"{SETUP}, and use that environment's ansible-playbook."
        )
    lacking = []
    for entry in wanted:
        version = installed.get(entry["name"])
        least = entry.get("version", "").removeprefix(">=")
        if version is None or (least and _numbers(version) < _numbers(least)):
            lacking.append(f"{entry['name']} {entry.get('version', '')} ({version or 'not installed'})")
    if lacking:
        found.append(
            f"The controller lacks the collections {', '.join(lacking)}: "
            f"{SETUP}, or `ansible-galaxy collection install -r {REQUIREMENTS.with_suffix('.yml')}`."
        )
    folder = program_folder or str(pathlib.Path(sys.executable).parent)
    missing = [name for name in PROGRAMS if not (shutil.which(name, path=folder) or shutil.which(name))]
    if missing:
        found.append(
            f"The controller lacks the programs {', '.join(missing)}: {SETUP}; ssh and git come from the system."
        )
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])
