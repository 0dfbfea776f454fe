"""Starts the server: Gunicorn's application with this package's defaults, refused settings and master."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.errors import ConfigError

import gunicorn_handover.settings  # noqa: F401  registers our settings with Gunicorn
from gunicorn_handover import environment, internals
from gunicorn_handover.arbiter import HandoverArbiter
from gunicorn_handover.board import describe
from gunicorn_handover.notify import Notifier
from gunicorn_handover.worker import HandoverWorker

DEFAULTS: dict[str, Any] = {
    # Gunicorn setting: default in this package
    "worker_class": "gunicorn_handover.worker.HandoverWorker",
    "logger_class": "gunicorn_handover.logs.HandoverLogger",
    "accesslog": "-",
    "control_socket_disable": True,
}

REFUSED: dict[str, str] = {
    # setting that must stay off: why, and the fix
    "preload_app": "A reload would not load new code. Leave it off.",
    "reload": "It kills workers that are serving requests. Leave it off, and send HUP to reload.",
    "reuse_port": "A worker that exits would drop the connections queued on its own socket. Leave it off.",
    "daemon": "The service manager would lose track of the master. Leave it off.",
    "dirty_workers": "A reload doesn't hand them over. Leave it at 0.",
}


class HandoverApplication(WSGIApplication):
    """Loads the configuration, at startup and at each reload."""

    def __init__(self, secrets: frozenset[str], notifier: Notifier) -> None:
        """`secrets` are the names of the variables that were set from credentials."""
        self._secrets = secrets
        self._notifier = notifier
        self._path_entry: str | None = None
        super().__init__("%(prog)s [OPTIONS] [APP_MODULE]", prog="gunicorn_handover")

    def load_default_config(self) -> None:
        super().load_default_config()
        for name, value in DEFAULTS.items():
            self.cfg.set(name, value)

    def load_config(self) -> None:
        super().load_config()
        for name, reason in REFUSED.items():
            if self.cfg.settings[name].get():
                raise ConfigError(f"The setting {name} can't be used with gunicorn_handover. {reason}")
        worker_class = self.cfg.worker_class
        if not (isinstance(worker_class, type) and issubclass(worker_class, HandoverWorker)):
            raise ConfigError(
                f"worker_class is {self.cfg.worker_class_str}, which is not a HandoverWorker. Leave worker_class unset."
            )
        self.cfg.set("post_fork", _recorded(self.cfg.post_fork))
        # a credential takes precedence over a plain variable of the same name
        self.cfg.set("raw_env", [entry for entry in self.cfg.raw_env if entry.partition("=")[0] not in self._secrets])

    def chdir(self) -> None:
        # Gunicorn adds each new chdir to sys.path; here it replaces the previous one.
        # The path isn't resolved: through its symbolic link it leads to the current release.
        os.chdir(self.cfg.chdir)
        if self._path_entry in sys.path:
            sys.path.remove(self._path_entry)
        self._path_entry = None
        if self.cfg.chdir not in sys.path:
            self._path_entry = self.cfg.chdir
            sys.path.insert(0, self._path_entry)

    def run(self) -> None:
        if self.cfg.print_config or self.cfg.check_config:
            super().run()
        if self.cfg.pythonpath:
            for path in self.cfg.pythonpath.split(","):
                entry = os.path.abspath(path)
                if entry not in sys.path:
                    sys.path.insert(0, entry)
        internals.check_master(self.cfg.handover_http)
        HandoverArbiter(self, self._notifier).run()


def _recorded(hook: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """The hook `post_fork`, which runs in a worker before its boot, with the reason of its failure reported."""

    def post_fork(server: Any, worker: Any) -> None:
        try:
            hook(server, worker)
        except BaseException as error:
            worker.board.record_failure(f"the hook post_fork: {describe(error)}")
            raise

    return post_fork


def serve() -> None:
    """Serves until stopped. Raises SystemExit: 0 after a stop, otherwise non-zero with the reason in the log."""
    notifier = Notifier.from_environ()
    # `python -m` adds the working directory to sys.path with its links resolved, which would pin today's release
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]
    try:
        secrets = environment.export_credentials(os.environ)
        notifier.hide(os.environ[name] for name in secrets)
        HandoverApplication(secrets, notifier).run()
    except (environment.EnvironmentFileError, internals.UnsupportedError, RuntimeError, OSError) as error:
        notifier.status(f"Failed: {error}")
        sys.exit(f"Error: {error}")
