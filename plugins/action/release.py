"""Action of the module release: uploads only the archives that a host lacks for a release."""

from __future__ import annotations

import base64
import pathlib
import posixpath
import shlex
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.baton.web.plugins.module_utils.controller import action, module_cache
from ansible_collections.baton.web.plugins.module_utils.host import untrusted

NO_ARCHIVE = "That is not an archive of this release, so it was not sent. Check that host."
SMALL = 256 * 1024  # bytes; smaller sources are sent unconditionally, which saves two of three round trips
PIECE = 16 * 1024 * 1024  # bytes of an archive in the controller's memory, per host


class ActionModule(module_cache.CachedModuleAction):
    """Runs the module, and again after uploading the archives that it requests."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's last result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer: dict[str, Any] = action.execute(self, task_vars or {}, {**self._task.args, **self._small_source()})
        if "archives_dir" in answer:
            archives = self._archives()
            for item in untrusted.objects(answer.get("uploads")):
                source, destination = (untrusted.text(item.get(key)) for key in ("src", "dest"))
                if source not in archives:
                    # untrusted: a host must not be able to read other files of the controller, nor the same one forever
                    return result | {"failed": True, "msg": f"{source or 'Nothing'} was requested. {NO_ARCHIVE}"}
                archives.remove(source)
                try:
                    trouble = self._upload(source, destination)
                except AnsibleConnectionFailure as error:
                    trouble = f"The connection broke while archives were uploaded: {error}"
                if trouble:
                    return result | {"failed": True, "msg": trouble}
            arguments = {**self._task.args, "archives_dir": untrusted.text(answer["archives_dir"])}
            answer = action.execute(self, task_vars or {}, arguments)
        return result | answer

    def _small_source(self) -> dict[str, str]:
        source = pathlib.Path(self._task.args["artifact"]["source"]["path"])
        try:
            if self._task.check_mode or source.stat().st_size > SMALL:
                return {}
            return {"source": base64.b64encode(source.read_bytes()).decode()}
        except OSError:
            return {}  # a host that has the release doesn't need the source

    def _archives(self) -> set[str]:
        artifact = self._task.args["artifact"]
        return {str(archive["path"]) for archive in (artifact["source"], *artifact["wheels"].values())}

    def _upload(self, source: str, destination: str) -> str:
        """Write a file on the host as the task's user. Returns why that failed; then its folder is removed.

        Sends the content through the connection's input straight to the destination. A temporary folder of the login
        user would take four round trips instead of one, may be on another disk, and would remain if the task is killed.
        """
        folder, file = shlex.quote(posixpath.dirname(destination)), shlex.quote(destination)
        sent = 0
        with open(source, "rb") as archive:
            while piece := archive.read(PIECE):
                sent, redirection = sent + len(piece), ">>" if sent else ">"
                done = self._low_level_execute_command(
                    f"umask 077; cat {redirection} {file}; "
                    # the size is checked because the input ends early if the controller is killed; if the disk is full,
                    # the rest of the input must still be read
                    f'test "$(stat -c %s {file})" = {sent} || {{ rm -rf {folder}; cat > /dev/null; exit 1; }}',
                    in_data=piece,
                )
                if done["rc"] != 0:
                    reason = untrusted.text(done["stderr"].strip()) or "the transfer was incomplete"
                    return f"{destination} can't be written on this host ({reason}). Check its disk, then deploy again."
        return ""
