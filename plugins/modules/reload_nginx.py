#!/usr/bin/python
"""Ansible module: reload nginx if files have changed since it read its configuration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: reload_nginx
short_description: Reload nginx if files have changed since it read its configuration
version_added: 0.2.0
description:
  - Compares the files in C(/etc/nginx), and further ones, with the time of C(/run/nginx.loaded), which the role
    C(nginx_server) has nginx write. So no run needs to know what another one has changed, even if that was killed.
  - Starts nginx if it isn't running.
author: Baton contributors (!UNKNOWN)
extends_documentation_fragment: [baton.web.attributes]
options:
  files:
    description: Files and folders outside C(/etc/nginx) that the configuration refers to, such as certificates.
    type: list
    elements: path
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: none}
"""

EXAMPLES = r"""
- name: Reload nginx for changed files
  baton.web.reload_nginx:
    files: [/etc/ssl/links/fullchain.pem, /etc/ssl/links/privkey.pem]
"""

RETURN = r"""
unread: {description: A file that has changed; empty if none has., returned: success, type: str}
"""

import pathlib

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.baton.web.plugins.module_utils.edge import loading
from ansible_collections.baton.web.plugins.module_utils.host import systemd

NGINX = pathlib.Path("/etc/nginx")


def main() -> None:
    """Parse, call, exit."""
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "path", "default": []}}, supports_check_mode=True
    )
    unread = loading.unread(NGINX, *module.params["files"])
    if unread and not module.check_mode:
        try:
            systemd.change("reload-or-restart", "nginx.service", 60)
        except systemd.UnitError as error:
            module.fail_json(msg=f"nginx can't load its files: {error}")
    module.exit_json(changed=bool(unread), unread=unread)


if __name__ == "__main__":
    main()
