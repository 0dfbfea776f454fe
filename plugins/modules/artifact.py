#!/usr/bin/python
"""Builds an application's artifact on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Build an application's artifact on the controller
version_added: 0.2.0
description:
  - Packs an application's source, its locked requirements, and a wheel of each for every kind of app server. The id of
    the artifact is a hash of its content, so the same input has the same id.
  - Runs on the controller, with the Python of the project's venv. Hosts need no git, no compiler and no package index.
  - Caches downloads and builds. A second run, or a run after a change of code only, downloads nothing.
options:
  app_name:
    description: Name of the application.
    type: str
    required: true
  app_source:
    description: A folder, a git URL, or the requirement of a published package.
    type: str
    required: true
  app_version:
    description: Branch, tag or commit of a git source; version of a package.
    type: str
    default: ""
  app_source_subdir:
    description: Folder of the project inside the source.
    type: str
    default: ""
  app_module:
    description: Import string of the ASGI application.
    type: str
    required: true
  targets:
    description: The kinds of app servers that need wheels.
    type: list
    elements: dict
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
  base_dirs:
    description: Folders in which relative paths are looked up, in this order.
    type: list
    elements: path
    default: []
  server_lock:
    description: Hashed, universal requirements of the web server.
    type: path
    required: true
  handover_source:
    description: Folder of the gunicorn_handover project.
    type: path
    required: true
  lock:
    description: Path of the lock; empty to search for it.
    type: str
    default: ""
  extras:
    description: Extras of the project to install.
    type: list
    elements: str
    default: []
  groups:
    description: Dependency groups to install; none by default.
    type: list
    elements: str
    default: []
  extra_requirements:
    description: Requirements to install in addition to the lock's.
    type: list
    elements: str
    default: []
  constraints:
    description: Version constraints for packages that aren't locked, such as C(pydantic<3).
    type: list
    elements: str
    default: []
  exclude_newer:
    description: Ignore packages that were published after this date when resolving.
    type: str
    default: ""
  refresh:
    description: Resolve unlocked requirements again instead of using this controller's earlier result.
    type: bool
    default: false
  allow_stale_lock:
    description: Deploy a lock although the project's own requirements have changed since.
    type: bool
    default: false
  allow_old_packages:
    description: Names of packages to deploy although their version is known to be unsafe.
    type: list
    elements: str
    default: []
  import_paths:
    description: More import roots, relative to the project's folder.
    type: list
    elements: str
    default: []
  working_directory:
    description: Working directory of the application, relative to the source; the project's folder by default.
    type: str
    default: ""
  build_command:
    description: Command that runs once in a copy of the source, in the project's folder.
    type: list
    elements: str
    default: []
  build_environment:
    description: Environment of the build command.
    type: dict
    default: {}
  files:
    description: Files to add to the source.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path in the source.
        type: str
        required: true
      content:
        description: Content of the file.
        type: str
      src:
        description: File on the controller to copy.
        type: str
      build:
        description: Whether the file is also part of the build of a project's wheel.
        type: bool
        default: false
      mode:
        description: Mode; only the executable bit matters.
        type: str
        default: "0644"
  exclude:
    description: Patterns of source paths to leave out.
    type: list
    elements: str
    default: []
  state_links:
    description: Source paths to link to the application's state folder.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path in the source.
        type: str
        required: true
      target:
        description: Path in the state folder; the same as I(path) by default.
        type: str
      directory:
        description: Whether it is a folder, which is created if missing.
        type: bool
        default: true
  state_dir:
    description: The application's state folder on a host; C(/var/lib/<app_name>) by default.
    type: str
    default: ""
  project_wheel:
    description: Build and install the project itself, if it defines a build (for its metadata and entry points).
    type: bool
    default: true
  build:
    description: Where to build packages that must be compiled; empty refuses them.
    type: str
    choices: ["", builder, host]
    default: ""
  build_confinement:
    description:
      - How code of the source and its packages (build commands, build backends) runs on the controller, always with a
        clean environment and an empty home. V(auto) confines it with bubblewrap where that works, V(required) refuses
        to run it unconfined, V(off) gives it access to the controller's files.
    type: str
    choices: [auto, required, "off"]
    default: auto
  salt:
    description: Further input of the id; another value gives another id.
    type: str
    default: ""
  index_url:
    description: Package index to use instead of the controller's configured one.
    type: str
    default: ""
  extra_index_urls:
    description: More package indexes, which are searched first.
    type: list
    elements: str
    default: []
  cache_dir:
    description: The controller's cache; C($XDG_CACHE_HOME/baton) by default.
    type: str
    default: ""
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
attributes:
  check_mode: {support: full, details: The artifact is still built into the controller's cache.}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Build the artifact
  baton.web.artifact:
    app_name: links
    app_source: ../../app
    app_module: links.main:app
    base_dirs: ["{{ inventory_dir }}"]
    server_lock: roles/app_release/files/server-requirements.txt
    handover_source: handover
    targets:
      - {python: "3.11", architecture: x86_64, glibc: "2.36"}
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
notice:
  description: Foreign code that ran on the controller. It is a warning if the code ran unconfined or in check mode.
  returned: when such code ran
  type: str
artifact:
  description: The data that staging the release needs.
  returned: always
  type: dict
  contains:
    complete: {description: Whether all wheels exist., type: bool}
    id: {description: Hash of the content., type: str}
    release: {description: Content of C(release.json)., type: dict}
    source:
      description: C(path) of the source's archive with C(sha256), C(upload_bytes) and C(unpacked_bytes).
      type: dict
    wheels: {description: "For each target its C(key), C(path), C(sha256), sizes and package versions.", type: dict}
    boms: {description: "For each target, the path of the bill of materials.", type: dict}
    builds: {description: Builds that a host must run first., type: list}
    warnings: {description: Warnings about requirements that aren't locked., type: list}
    ran_on_controller: {description: "Foreign code that ran on the controller, and its confinement.", type: str}
    seconds: {description: Duration of each step., type: dict}
"""

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Parse, call, exit."""
    text = {"type": "str", "default": ""}
    texts = {"type": "list", "elements": "str", "default": []}
    target = {name: {"type": "str", "required": True} for name in ("python", "architecture", "glibc")}
    file = {
        "path": {"type": "str", "required": True},
        "content": {"type": "str"},
        "src": {"type": "str"},
        "mode": {"type": "str", "default": "0644"},
        "build": {"type": "bool", "default": False},
    }
    link = {
        "path": {"type": "str", "required": True},
        "target": {"type": "str"},
        "directory": {"type": "bool", "default": True},
    }
    module = AnsibleModule(
        argument_spec={
            "app_name": {"type": "str", "required": True},
            "app_source": {"type": "str", "required": True},
            "app_version": text,
            "app_source_subdir": text,
            "app_module": {"type": "str", "required": True},
            "targets": {"type": "list", "elements": "dict", "required": True, "options": target},
            "base_dirs": {"type": "list", "elements": "path", "default": []},
            "server_lock": {"type": "path", "required": True},
            "handover_source": {"type": "path", "required": True},
            "lock": text,
            "extras": texts,
            "groups": texts,
            "extra_requirements": texts,
            "constraints": texts,
            "exclude_newer": text,
            "refresh": {"type": "bool", "default": False},
            "allow_stale_lock": {"type": "bool", "default": False},
            "allow_old_packages": texts,
            "import_paths": texts,
            "working_directory": text,
            "build_command": texts,
            "build_environment": {"type": "dict", "default": {}},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "exclude": texts,
            "state_links": {"type": "list", "elements": "dict", "default": [], "options": link},
            "state_dir": text,
            "project_wheel": {"type": "bool", "default": True},
            "build": {"type": "str", "choices": ["", "builder", "host"], "default": ""},
            "build_confinement": {"type": "str", "choices": ["auto", "required", "off"], "default": "auto"},
            "salt": text,
            "index_url": {**text, "no_log": True},
            "extra_index_urls": {**texts, "no_log": True},
            "cache_dir": text,
        },
        supports_check_mode=True,
    )
    try:
        import packaging  # noqa: F401
    except ImportError:
        module.fail_json(
            msg="artifact needs the Python package `packaging` on the controller. "
            "Run `make setup` and use that venv's ansible-playbook; delegate to localhost with its Python."
        )
    from ansible_collections.baton.web.plugins.module_utils.artifact import artifact
    from ansible_collections.baton.web.plugins.module_utils.host.command import BatonError

    try:
        result = artifact.build_from_parameters(module.params)
    except BatonError as error:
        module.fail_json(msg=str(error), cause=error.cause, fix=error.fix)
    for warning in result["warnings"]:
        module.warn(warning)
    notice = {}
    if result["ran_on_controller"] and (module.check_mode or not result["confined"]):
        module.warn(result["ran_on_controller"])
    elif result["ran_on_controller"]:
        notice["notice"] = result["ran_on_controller"]
    module.exit_json(changed=False, artifact=result, **notice)


if __name__ == "__main__":
    main()
