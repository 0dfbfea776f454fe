"""Action of the module release: uploads the archives that a host lacks for a release, and no others."""

from __future__ import annotations

import base64
import pathlib
import posixpath
import shlex
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache

NO_ARCHIVE = "That isn't an archive of this release, and was not sent. Check that host."
SMALL = 256 * 1024  # what is sent before the host has asked for it, which saves two of three round trips
PIECE = 16 * 1024 * 1024  # what an archive takes of the controller's memory, for each host


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module, and once more when it asks for archives."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = action.execute(self, task_vars or {}, {**self._task.args, **self._small_source()})
        if "archives_dir" in answer:
            for item in answer["uploads"]:
                if item["src"] not in self._archives():
                    # the host's word, which must not open any file of this controller
                    return result | {"failed": True, "msg": f"{item['src']} was requested. {NO_ARCHIVE}"}
                try:
                    trouble = self._upload(item["src"], item["dest"])
                except AnsibleConnectionFailure as error:
                    trouble = f"The connection broke while archives were uploaded: {error}"
                if trouble:
                    return result | {"failed": True, "msg": trouble}
            arguments = {**self._task.args, "archives_dir": answer["archives_dir"]}
            answer = action.execute(self, task_vars or {}, arguments)
        return result | answer

    def _small_source(self) -> dict[str, str]:
        source = pathlib.Path(self._task.args["artifact"]["source"]["path"])
        try:
            if self._task.check_mode or source.stat().st_size > SMALL:
                return {}
            return {"source": base64.b64encode(source.read_bytes()).decode()}
        except OSError:
            return {}  # a host that has the release needs none

    def _archives(self) -> set[str]:
        artifact = self._task.args["artifact"]
        return {str(archive["path"]) for archive in (artifact["source"], *artifact["wheels"].values())}

    def _upload(self, source: str, destination: str) -> str:
        """Write a file on the host as the task's user. Returns why that failed; its folder is gone then.

        Straight into a folder of that user, by the connection's input: a temporary folder of the user who logs in takes
        four round trips instead of one, its disk would have to be checked too, and it stays when the task is killed.
        """
        folder, file = shlex.quote(posixpath.dirname(destination)), shlex.quote(destination)
        sent = 0
        with open(source, "rb") as archive:
            while piece := archive.read(PIECE):
                sent, redirection = sent + len(piece), ">>" if sent else ">"
                done = self._low_level_execute_command(
                    f"umask 077; cat {redirection} {file}; "
                    # the input ends early when the controller is killed; it is read to its end when the disk is full
                    f'test "$(stat -c %s {file})" = {sent} || {{ rm -rf {folder}; cat > /dev/null; exit 1; }}',
                    in_data=piece,
                )
                if done["rc"] != 0:
                    reason = done["stderr"].strip() or "it came incomplete"
                    return f"{destination} can't be written on this host ({reason}). Check its disk, then deploy again."
        return ""
