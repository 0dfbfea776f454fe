"""Shared helpers: the fleet, its applications, requests, and generated sources."""

from __future__ import annotations

import json
import os
import pathlib
import ssl
import subprocess
import textwrap
from typing import Any

import httpx
import testinfra

from tests.support.playbooks import Done, Playbooks
from tests.support.traffic import PATIENCE, Generator

SCENARIO = pathlib.Path(__file__).parents[1]
# host: the local port on which its port 443 is published
SOLO = {"solo1": 18311, "solo2": 18312}
PYTHON = {"solo1": "3.11", "solo2": "3.13"}
# always the same folder: the controller's cache is keyed by a git source's address
SOURCES = (
    pathlib.Path(os.environ.get("MOLECULE_EPHEMERAL_DIRECTORY", pathlib.Path.home() / ".cache/baton/applications"))
    / "sources"
)


def host(name: str) -> Any:
    """A host of the fleet."""
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(SCENARIO / "inventory"))


def run(*words: str | pathlib.Path, cwd: pathlib.Path | None = None, **environment: str) -> str:
    """Run a program that must succeed; return its output."""
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def write(folder: pathlib.Path, files: dict[str, str]) -> pathlib.Path:
    """Write files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


def commit(folder: pathlib.Path, message: str, tag: str = "") -> None:
    """Commit everything in a folder with a fixed identity and time, so that the same content is the same commit."""
    if not (folder / ".git").exists():
        run("git", "init", "--quiet", "--initial-branch=main", cwd=folder)
    who = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in _IDENTITY.items()}
    run("git", "add", "--all", cwd=folder)
    run("git", "commit", "--quiet", "--message", message, cwd=folder, **who)
    if tag:
        run("git", "tag", tag, cwd=folder)


_IDENTITY = {"NAME": "a", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}


class Application(Playbooks):
    """An application of this scenario, named like its inventory."""

    def __init__(self, name: str) -> None:
        super().__init__(SCENARIO / "inventories" / name, {"APPLICATIONS": str(SOURCES)})

    @property
    def name(self) -> str:
        """The application's name."""
        return self.inventory.name

    @property
    def site(self) -> str:
        """Its server name."""
        return f"{self.name}.apps.test"

    @property
    def authority(self) -> pathlib.Path:
        """The authority's certificate, which its clients trust."""
        return self.inventory / "tls/ca.pem"

    def deploy(self, **variables: object) -> Done:
        """A deploy that must succeed."""
        return self.succeed("playbooks/deploy.yml", **variables)

    def ask(self, name: str, path: str = "/", **headers: str) -> httpx.Response:
        """A host's response to a client that trusts only this application's authority."""
        trust = ssl.create_default_context(cafile=str(self.authority))
        with httpx.Client(base_url=f"https://127.0.0.1:{SOLO[name]}", verify=trust, timeout=PATIENCE) as client:
            return client.get(path, headers={"Host": self.site, **headers}, extensions={"sni_hostname": self.site})

    def get_json(self, name: str, path: str = "/") -> Any:
        """The JSON in a host's response."""
        answer = self.ask(name, path)
        assert answer.status_code == 200, f"{name} answers {answer.status_code}: {answer.text}"
        return answer.json()

    def status(self, name: str) -> Any:
        """The status of the application's master."""
        return json.loads(host(name).check_output(f"cat /run/baton/{self.name}/handover.json"))

    def workers(self, name: str) -> set[int]:
        """The pids of the serving workers, without draining ones."""
        return {worker["pid"] for worker in self.status(name)["workers"] if worker["state"] == "ready"}

    def master(self, name: str) -> int:
        """The pid of the service's main process."""
        return int(host(name).check_output(f"systemctl show --value --property MainPID {self.name}.service"))

    def releases(self, name: str) -> list[str]:
        """The releases on a host."""
        listed: str = host(name).check_output(f"ls -A /opt/{self.name}/releases")
        return listed.split()

    def current(self, name: str) -> str:
        """The current release."""
        return str(host(name).check_output(f"basename $(readlink /opt/{self.name}/current)"))

    def release(self, name: str) -> Any:
        """The metadata of the current release."""
        return json.loads(host(name).check_output(f"cat /opt/{self.name}/current/release.json"))


class Traffic:
    """Requests to an application on both hosts during a block; afterwards, `failed` counts the failures by cause."""

    def __init__(self, application: Application, rate: int = 40, path: str = "/", *, fewest: int = 60) -> None:
        """`rate`: requests per second to each host; `fewest`: requests that each host must get at least."""
        self._application = application
        self._rate = rate
        self._path = path
        self._fewest = fewest
        self._running: list[Generator] = []
        self.sent = 0
        self.failed: dict[str, int] = {}

    def __enter__(self) -> Traffic:
        for port in SOLO.values():
            generator = Generator(
                f"https://127.0.0.1:{port}",
                [f"get,path={self._path},share=3", f"fresh,path={self._path},wait=0.2"],
                host=self._application.site,
                ca_file=self._application.authority,
                rate=self._rate,
                duration=7200,
                timeout=PATIENCE,
            )
            self._running.append(generator)
        for generator in self._running:
            generator.settle()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            for generator in self._running:
                generator.settle()
                generator.wait_for(sent=self._fewest)
            for generator in self._running:
                generator.stop()
            while self._running:
                summary = self._running.pop().summary(self._fewest, timeout=PATIENCE)
                self.sent += summary.sent
                for cause, count in summary.failed.items():
                    self.failed[cause] = self.failed.get(cause, 0) + count
        for generator in self._running:
            generator.kill()
