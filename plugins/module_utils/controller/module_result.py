"""The result of a module: a compromised host can return any size, and other types than the module's."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

LARGEST = 2**24  # characters
# what Ansible raises for a result: it evaluates some keys, such as `ansible_facts`, without checking their types
WRONG_TYPES = (AttributeError, TypeError, ValueError, RecursionError)


class TooLargeError(Exception):
    """A result is too large to be parsed. The message is its size."""


class CheckedModuleAction(ActionBase):  # type: ignore[misc]
    """Action whose module fails if the host returns what no module of Baton's returns.

    Overrides private methods of ActionBase.
    """

    def _execute_module(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        try:
            result: dict[str, Any] = super()._execute_module(*arguments, **options)
        except TooLargeError as size:
            module = next(iter(arguments), None) or options.get("module_name") or self._task.action
            why = (
                f"returned {size} MiB for {module}, more than {LARGEST >> 20} MiB. If you "
                "asked for logs, ask for fewer lines. Otherwise find"
            )
        except WRONG_TYPES as error:
            why = f"returned what Baton's program doesn't return ({error}). Find"
        else:
            return result
        host = self._task.delegate_to or (options.get("task_vars") or {}).get("inventory_hostname", "The host")
        return {"failed": True, "msg": f"{host} {why} out whether it is compromised, and reinstall it if it is."}

    def _parse_returned_data(self, res: dict[str, Any], profile: str) -> dict[str, Any]:
        size = sum(len(res.get(key) or "") for key in ("stdout", "stderr"))
        if size > LARGEST:
            raise TooLargeError(f"{size / 2**20:.1f}")
        result: dict[str, Any] = super()._parse_returned_data(res, profile)
        return result
