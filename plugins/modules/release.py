#!/usr/bin/python
"""Stages a release of an application on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage a release of an application on a host
version_added: 0.2.0
description:
  - Creates C(releases/<id>) offline from the archives that M(baton.web.artifact) built, with its own venv and the web
    server's overlay. A release appears complete, by one rename, or not at all.
  - Never changes C(current).
  - Looks up the commands of the application's process types and schedules in a release that isn't current, and fails if
    the release and the host lack their programs.
  - Verifies the hashes of archives and wheels. C(bom.cdx.json) in the release lists the installed packages.
  - A release with the same wheels as an existing one reuses that venv by hard links, so a change of code only uploads
    and installs no wheels.
  - If archives are missing, the module creates nothing and returns their names, or fails if the disk has too little
    space. Its action on the controller uploads them and calls the module again. It passes a small source directly.
options:
  releases_dir:
    description: Folder of the releases.
    type: path
    required: true
  state_dir:
    description: Folder for the lock and for uploads, C(/var/lib/baton/<app>).
    type: path
    required: true
  application:
    description: Name of the application whose commands are looked up; without it, none are.
    type: str
  artifact:
    description: The artifact that M(baton.web.artifact) returned.
    type: dict
    required: true
  target:
    description: Kind of this host.
    type: dict
    required: true
    suboptions:
      python:
        description: Version of Python, C(3.11) or C(3.11.2).
        type: str
        required: true
      architecture:
        description: Machine architecture, as printed by C(uname -m).
        type: str
        required: true
      glibc:
        description: Version of the C library, C(2.36).
        type: str
        required: true
  allow_old_packages:
    description: Names of packages to deploy although their version is known to be unsafe.
    type: list
    elements: str
    default: []
  archives_dir:
    description: Folder of the uploaded archives; set by the action. The module always removes it.
    type: path
  source:
    description: The source's archive in base64, for a host that lacks nothing else; set by the action.
    type: str
  uv:
    description: The uv program.
    type: path
    default: /var/lib/baton/bin/uv
  python:
    description: The Python that creates the venv.
    type: path
    default: /usr/bin/python3
  check_import:
    description: Import the application once before the release appears.
    type: dict
    suboptions:
      user:
        description: User that imports it.
        type: str
        required: true
      environment_file:
        description: The service's environment file.
        type: path
      credentials_dir:
        description: Folder of secrets, one per file; the import gets them like the service.
        type: path
      unit_file:
        description: The service's unit file, whose sandbox and limits apply to the import; without it, Baton's own.
        type: path
      timeout:
        description: Seconds that the import may take.
        type: int
        default: 120
  app_state_dir:
    description: The application's state folder, in which the targets of the source's links are created.
    type: path
  app_user:
    description: Owner of those folders.
    type: str
    default: ""
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Stage the release
  baton.web.release:
    releases_dir: /opt/links/releases
    state_dir: /var/lib/baton/links
    artifact: "{{ artifact }}"
    target: {python: "3.11", architecture: x86_64, glibc: "2.36"}
"""

RETURN = r"""
staged:
  description: Whether the release exists, or would exist. False if archives are missing.
  returned: success
  type: bool
uploads:
  description: Files to upload first, a list of C(src) on the controller and C(dest) on the host.
  returned: when archives are missing
  type: list
archives_dir:
  description: Folder that was created for them, owned by the module's user.
  returned: when archives are missing
  type: str
release:
  description: Content of C(release.json), or null.
  returned: success
  type: dict
release_path:
  description: The release's folder.
  returned: success
  type: str
warnings:
  description: Conflicts between locked packages.
  returned: success
  type: list
seconds:
  description: Duration of each step.
  returned: success
  type: dict
current:
  description: Id of the current release, or null.
  returned: success
  type: str
"""

import base64
import secrets
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.activation import commands
from ansible_collections.baton.web.plugins.module_utils.app import layout, masking
from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError, CommandError, make_folder
from ansible_collections.baton.web.plugins.module_utils.release import import_check, staging, store

LOOKUP_SECONDS = 60


def _stage(module: AnsibleModule, places: store.ReleaseStore, wanted: staging.StageRequest) -> dict[str, Any]:
    parameters = module.params
    path = str(places.releases / wanted.identity)
    about = {"release_path": path, "current": store.current(places)}
    diff = {
        "before": "",
        "after": f"{path}\n",
        "before_header": str(places.releases),
        "after_header": str(places.releases),
    }
    if not parameters["archives_dir"]:
        if not module.check_mode:
            # uploads of a killed run
            shutil.rmtree(places.upload, ignore_errors=True)
        found = staging.query(places, wanted)
        if found["staged"]:
            return {"changed": False, "staged": True, "release": found["release"], "seconds": {}, **about}
        if module.check_mode:
            return {"changed": True, "staged": True, "release": None, "seconds": {}, "diff": diff, **about}
        archives = wanted.source_archive.parent
        make_folder(archives.parent, 0o700)
        archives.mkdir(mode=0o700)
        if not parameters["source"] or len(found["uploads"]) > 1:
            asked = {"uploads": found["uploads"], "archives_dir": str(archives)}
            return {"changed": False, "staged": False, **asked, **about}
        _write(wanted.source_archive, base64.b64decode(parameters["source"]))
    imports = parameters["check_import"]
    check = None
    if imports:
        check = import_check.ImportCheck(
            imports["user"],
            imports["environment_file"] or "",
            imports["credentials_dir"] or "",
            float(imports["timeout"]),
            imports["unit_file"] or "",
        )
    state = Path(parameters["app_state_dir"]) if parameters["app_state_dir"] else None
    result = staging.stage(places, wanted, check, state, parameters["app_user"])
    for warning in result.pop("warnings"):
        module.warn(warning)
    return {"staged": True, **result, "diff": diff, **about}


def _look_up_commands(module: AnsibleModule, release: str) -> None:
    """Fail if commands of process types and schedules don't exist in a release: before the migration runs in it."""
    if not module.params["application"]:
        return
    app = layout.Application(module.params["application"])
    try:
        problems = commands.lookup(app, release, LOOKUP_SECONDS)
    except commands.LookupFailedError as error:
        module.warn(masking.masked(app.name, f"{commands.UNCHECKED}{error}", app.root))
        return
    if problems:
        module.fail_json(msg=masking.masked(app.name, problems, app.root))


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise BatonError(
            f"{path} can't be written on this host ({error.strerror}).", "Check its disk, then deploy again."
        ) from None


def main() -> None:
    """Parse, call, exit."""
    check_import = {
        "user": {"type": "str", "required": True},
        "environment_file": {"type": "path"},
        "credentials_dir": {"type": "path"},
        "unit_file": {"type": "path"},
        "timeout": {"type": "int", "default": 120},
    }
    target = {name: {"type": "str", "required": True} for name in ("python", "architecture", "glibc")}
    module = AnsibleModule(
        argument_spec={
            "releases_dir": {"type": "path", "required": True},
            "state_dir": {"type": "path", "required": True},
            "application": {"type": "str"},
            "artifact": {"type": "dict", "required": True},
            "target": {"type": "dict", "required": True, "options": target},
            "allow_old_packages": {"type": "list", "elements": "str", "default": []},
            "archives_dir": {"type": "path"},
            # not secret, but too long for a log
            "source": {"type": "str", "no_log": True},
            "uv": {"type": "path", "default": "/var/lib/baton/bin/uv"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "check_import": {"type": "dict", "options": check_import},
            "app_state_dir": {"type": "path"},
            "app_user": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    releases = Path(parameters["releases_dir"])
    places = store.ReleaseStore(
        releases=releases,
        current=releases.parent / "current",
        state=Path(parameters["state_dir"]),
        uv=Path(parameters["uv"]),
        python=Path(parameters["python"]),
    )
    archives = Path(parameters["archives_dir"] or places.upload / secrets.token_hex(4))
    result: dict[str, Any] = {}
    try:
        wanted = staging.StageRequest.parse(
            parameters["artifact"], parameters["target"], archives, parameters["allow_old_packages"]
        )
        result = _stage(module, places, wanted)
        # also if it was staged before: the settings may have changed
        if result["staged"] and result["current"] != wanted.identity and not module.check_mode:
            _look_up_commands(module, wanted.identity)
    except BatonError as error:
        module.fail_json(msg=str(error), cause=error.cause, fix=error.fix)
    except CommandError as error:
        module.fail_json(
            msg=f"A command failed on this host: {error} Check that uv and Python are those that the role installed."
        )
    finally:
        if "archives_dir" not in result:
            shutil.rmtree(archives, ignore_errors=True)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
