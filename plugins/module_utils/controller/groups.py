"""Find misspelt groups of an inventory, whose hosts the playbooks would leave out or treat as others."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from .settings import SIMILARITY

# other usual names of such groups
OTHER_NAMES = {
    "apps": "app_servers",
    "web_servers": "app_servers",
    "webservers": "app_servers",
    "edges": "load_balancers",
    "database_servers": "postgresql_servers",
    "databases": "postgresql_servers",
    "db_servers": "postgresql_servers",
    "postgres": "postgresql_servers",
    "postgresql": "postgresql_servers",
    "redis": "redis_servers",
}


def misspelt(groups: Mapping[str, Sequence[str]], known: Iterable[str]) -> dict[str, str]:
    """Return the groups whose names resemble one of Baton's groups that has no host, with that one.

    `groups`: the hosts of each group of the inventory. `known`: Baton's groups.
    """
    known = sorted(known)
    lacking = [name for name in known if not groups.get(name)]
    found = {}
    for name in sorted(groups.keys() - set(known)):
        plain = name.lower()
        near = difflib.get_close_matches(plain, lacking, 1, SIMILARITY)
        meant = near[0] if near else OTHER_NAMES.get(plain)
        if groups[name] and meant in lacking:
            found[name] = meant
    return found
