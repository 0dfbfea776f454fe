"""Modules of the collection, run in this process as a host runs them."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args


def run(module: Any, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """What a module answers; `check`: in check mode. A failure has `failed`."""
    said = io.StringIO()
    given = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(given), contextlib.redirect_stdout(said), pytest.raises(SystemExit) as end:
        module.main()
    answer: dict[str, Any] = json.loads(said.getvalue().splitlines()[-1])
    # Ansible goes by both
    assert bool(end.value.code) is answer.get("failed", False)
    return answer
