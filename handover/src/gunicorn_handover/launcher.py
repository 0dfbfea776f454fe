"""The server's start: Gunicorn's application with our defaults, our refusals, and our master."""

from __future__ import annotations

import os
import sys
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.errors import ConfigError

import gunicorn_handover.settings  # noqa: F401  makes our settings known to Gunicorn
from gunicorn_handover import environment, internals
from gunicorn_handover.arbiter import HandoverArbiter
from gunicorn_handover.notify import Notifier
from gunicorn_handover.worker import HandoverWorker

DEFAULTS: dict[str, Any] = {
    # Gunicorn's setting: our default
    "worker_class": "gunicorn_handover.worker.HandoverWorker",
    "logger_class": "gunicorn_handover.logs.HandoverLogger",
    "accesslog": "-",
    "control_socket_disable": True,
}

REFUSED: dict[str, str] = {
    # a setting that must stay off: why, and what to do
    "preload_app": "A reload would not load new code. Leave it off.",
    "reload": "It ends workers with requests on them. Leave it off and send HUP.",
    "reuse_port": "A worker that goes would drop what is queued on its own socket. Leave it off.",
    "daemon": "The service manager would lose the master. Leave it off.",
    "dirty_workers": "They are not handed over. Leave it at 0.",
}


class HandoverApplication(WSGIApplication):
    """Loads the configuration, at start and at each reload."""

    def __init__(self, secrets: frozenset[str], notifier: Notifier) -> None:
        """`secrets` are the names of variables that came as credentials."""
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
                f"The worker class {self.cfg.worker_class_str} can't be handed over. Leave worker_class unset."
            )
        # a credential wins over a plain variable of its name
        self.cfg.set("raw_env", [entry for entry in self.cfg.raw_env if entry.partition("=")[0] not in self._secrets])

    def chdir(self) -> None:
        # Gunicorn adds one folder after another to sys.path; here the last one takes the place of the one before.
        # The path stays as it is written: through a symbolic link, so that it leads to the release of the day.
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


def serve() -> None:
    """Serves until told to stop. Ends by SystemExit: 0 after a stop, else not 0 with the reason in the log."""
    notifier = Notifier.from_environ()
    # `python -m` puts the folder we started in on sys.path with its links resolved: that of today's release for ever
    if not sys.flags.safe_path and sys.path and sys.path[0] == os.getcwd():
        del sys.path[0]
    try:
        secrets = environment.export_credentials(os.environ)
        notifier.hide(os.environ[name] for name in secrets)
        HandoverApplication(secrets, notifier).run()
    except (environment.EnvironmentFileError, internals.UnsupportedError, RuntimeError, OSError) as error:
        notifier.status(f"Failed: {error}")
        sys.exit(f"Error: {error}")
