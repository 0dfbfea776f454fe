"""The bill of materials of a release, in CycloneDX 1.6 JSON (https://cyclonedx.org/docs/1.6/json/).

The controller writes it beside the artifact, and a host into the release's folder. The same release for the same
target has the same text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..host import untrusted

SUFFIX = ".cdx.json"
FILE = f"bom{SUFFIX}"
_PART = "baton:part"


@dataclass(frozen=True, order=True)
class Component:
    """A package of a release."""

    name: str
    version: str
    part: str  # venv, project (a package of the source itself, in the venv), or server
    sha256: str = ""  # of its wheel; empty if unknown

    @property
    def purl(self) -> str:
        """The package URL (https://github.com/package-url/purl-spec)."""
        version = f"@{quote(self.version, safe='')}" if self.version else ""
        return f"pkg:pypi/{quote(self.name, safe='')}{version}"


def document(release: Mapping[str, Any], target: str, components: Iterable[Component], baton: str) -> str:
    """Return the text of a bill of materials. `release`: the content of release.json. `baton`: Baton's version."""
    # the same package in the venv and in the server's overlay is listed once
    parts: dict[tuple[str, str], list[str]] = {}
    chosen: dict[tuple[str, str], Component] = {}
    for one in sorted(components):
        key = (one.purl, one.sha256)
        parts.setdefault(key, []).append(one.part)
        chosen.setdefault(key, one)
    identity = str(release["id"])
    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"baton:{release['app_name']}/{identity}/{target}")
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": str(release["created"]),
            "tools": {"components": [{"type": "application", "name": "baton", "version": baton}]},
            "component": {
                "type": "application",
                "bom-ref": f"release:{identity}",
                "name": str(release["app_name"]),
                "version": str(release.get("version") or identity),
                "properties": [
                    {"name": "baton:release", "value": identity},
                    {"name": "baton:target", "value": target},
                ],
            },
        },
        "components": [
            {
                "type": "library",
                "bom-ref": f"{one.purl}#{'+'.join(parts[key])}",
                "name": one.name,
                "version": one.version,
                "purl": one.purl,
                **({"hashes": [{"alg": "SHA-256", "content": one.sha256}]} if one.sha256 else {}),
                "properties": [{"name": _PART, "value": part} for part in parts[key]],
            }
            for key, one in chosen.items()
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def hashes(path: Path) -> dict[tuple[str, str], str]:
    """Return the wheels' hashes in a bill of materials, by part and name."""
    found = {}
    for one in untrusted.parse_object(untrusted.read(path))["components"]:
        for item in one["properties"]:
            if item["name"] == _PART and "hashes" in one:
                found[str(item["value"]), str(one["name"])] = str(one["hashes"][0]["content"])
    return found
