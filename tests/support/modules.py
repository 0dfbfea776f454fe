"""Runs modules of the collection in this process."""

from __future__ import annotations

import contextlib
import io
import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args


def run(module: Any, *, check: bool = False, **arguments: Any) -> dict[str, Any]:
    """Run a module, with `check` in check mode. Returns its result, also of a failure (`failed`)."""
    output = io.StringIO()
    parameters = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    with patch_module_args(parameters), contextlib.redirect_stdout(output), pytest.raises(SystemExit) as end:
        module.main()
    result: dict[str, Any] = json.loads(output.getvalue().splitlines()[-1])
    # Ansible uses both
    assert bool(end.value.code) is result.get("failed", False)
    return result
