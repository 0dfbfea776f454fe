#!/usr/bin/python
"""Ansible module: drain servers of a site's upstream, and restore others."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drain
short_description: Drain servers of a site's upstream and restore others, without losing a request
version_added: 0.2.0
description:
  - Marks the servers in the site's file, tests nginx's complete configuration with it, and reloads nginx. Old worker
    processes finish their requests; the module waits until the drained servers have no requests left, or until
    I(timeout).
  - Refuses to drain the last server.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  site: {description: Name of the site., type: str, required: true}
  drained:
    description: Addresses of the servers that get no new requests, without their ports.
    type: list
    elements: str
    default: []
  back:
    description: Addresses of those that get requests again; others stay as they are.
    type: list
    elements: str
    default: []
  timeout: {description: Seconds to wait until the requests of drained servers have ended., type: int, default: 30}
  optional:
    description: Whether an unreachable edge causes only a warning, with C(unreached) in the result; used by the action.
    type: bool
    default: false
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Drain the server
  baton.web.drain:
    site: links
    drained: [10.0.0.21]

- name: Restore the server
  baton.web.drain:
    site: links
    back: [10.0.0.21]
"""

RETURN = r"""
servers: {description: "All servers of the site, and whether each is drained.", returned: success, type: dict}
remaining: {description: Requests of the drained servers that remain after the wait., returned: success, type: int}
seconds: {description: Duration., returned: success, type: float}
"""

import pathlib
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.edge import loading, upstream
from ansible_collections.baton.web.plugins.module_utils.host import systemd

SITES = pathlib.Path("/etc/nginx/sites-enabled")


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={
            "site": {"type": "str", "required": True},
            "drained": {"type": "list", "elements": "str", "default": []},
            "back": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 30},
            "optional": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    site, drained, back, timeout = (module.params[name] for name in ("site", "drained", "back", "timeout"))
    file = SITES / f"{site}.conf"
    started = time.monotonic()
    if not file.exists():
        module.fail_json(msg=f"nginx has no site {site} on this host ({file} is missing). Run site.yml first.")
    before = file.read_text(encoding="utf-8")
    try:
        after = upstream.marked(before, site, drained, back)
        servers = upstream.servers(after, site)
        changed = after != before or bool(loading.unread(file))
        result = {
            "changed": changed,
            "servers": servers,
            "diff": {"before": _shown(before, site), "after": _shown(after, site)},
        }
        if module.check_mode:
            module.exit_json(remaining=0, seconds=0.0, **result)
        if changed:
            _load(module, site, file, before, after)
        remaining = upstream.wait_until_idle(list(servers), upstream.at(servers, drained), timeout) if drained else 0
    except upstream.UpstreamError as error:
        module.fail_json(msg=str(error))
    module.exit_json(remaining=remaining, seconds=round(time.monotonic() - started, 3), **result)


def _shown(text: str, site: str) -> str:
    return "".join(f"{server}{' drained' if down else ''}\n" for server, down in upstream.servers(text, site).items())


def _load(module: AnsibleModule, site: str, file: pathlib.Path, before: str, after: str) -> None:
    """Write the file and reload nginx, or restore the previous file. Raises UpstreamError."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder, file.name)
        scratch.write_text(after, encoding="utf-8")
        status, _, errors = module.run_command(["/usr/local/sbin/nginx-test-site", site, str(scratch)])
        if status:
            raise upstream.UpstreamError(f"nginx rejects the new configuration, so it wasn't changed: {errors.strip()}")
        module.atomic_move(str(scratch), str(file))
    try:
        # returns when the previous worker processes no longer accept connections
        systemd.change("reload", "nginx.service", 60)
    except systemd.UnitError as error:
        file.write_text(before, encoding="utf-8")
        raise upstream.UpstreamError(f"nginx can't be reloaded; its previous file was restored: {error}") from None


if __name__ == "__main__":
    main()
