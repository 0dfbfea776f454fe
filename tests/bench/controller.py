"""The benchmarks' work on the controller: boot a fleet, run playbooks, download wheels, wait for answers."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import resource
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fleet import fleet

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
LOCK = HERE / "peers/requirements.txt"
CACHE = pathlib.Path.home() / ".cache/baton/bench"
EVIDENCE = PROJECT / ".cache/bench"


class BenchError(Exception):
    """Nothing could be measured; the text is the reason."""


def command_line(parser: argparse.ArgumentParser, rendered: Callable[[pathlib.Path], str]) -> argparse.Namespace:
    """Parse the options of a benchmark that writes its figures as JSON, with a page beside it.

    `--render` ends here: `rendered` returns the page for a file of figures. Adds the options that all benchmarks have.
    """
    parser.add_argument("--output", type=pathlib.Path, help="JSON file, with the page beside it")
    parser.add_argument("--keep", action="store_true", help="use existing hosts, and keep them")
    parser.add_argument("--render", type=pathlib.Path, metavar="JSON", help="measure nothing, only write the .md again")
    options = parser.parse_args()
    if options.render:
        options.render.with_suffix(".md").write_text(rendered(options.render))
        sys.exit(0)
    # a terminated run also removes its hosts
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return options


@contextlib.contextmanager
def booted(inventory: pathlib.Path, keep: bool) -> Iterator[None]:
    """New hosts, which are removed in any case. With `keep`, existing hosts are used and kept."""
    if not keep:
        fleet.down(str(inventory))
    try:
        fleet.up(str(inventory))
        yield
    finally:
        if keep:
            print(f"Kept: python -m fleet.fleet down {inventory.relative_to(PROJECT)} removes it.")
        else:
            fleet.down(str(inventory))


def run_as_root(port: int, *command: str, script: str = "") -> str:
    """Run a command as root on a host; return its output. Raises BenchError."""
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    options += ["ServerAliveInterval=15", "ConnectTimeout=10"]
    ssh = ["ssh", "-i", str(fleet.ssh_key()), "-p", str(port), *(word for option in options for word in ("-o", option))]
    line = shlex.join(["sudo", *command])
    done = subprocess.run([*ssh, "deploy@127.0.0.1", line], input=script, text=True, capture_output=True, check=False)
    if done.returncode:
        raise BenchError(f"`{line[:100]}` ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def playbook(
    inventory: pathlib.Path,
    path: str,
    variables: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> float:
    """Run a playbook. Returns the CPU time of its process and all their children on this machine: user and system time
    in seconds. Raises BenchError with its last lines.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(pathlib.Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), path]
    command += ["-e", json.dumps(dict(variables or {}))]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environment or {})},
        text=True,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise BenchError(
            f"{path} ended with {done.returncode}:\n" + "\n".join(done.stdout.splitlines()[-30:]) + done.stderr
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wheels() -> pathlib.Path:
    """The wheels of the peers' lock, downloaded once on the controller, because the hosts have no index."""
    folder = CACHE / f"wheels-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            # for Debian 12's Python, whatever the controller has
            command += ["--require-hashes", "--only-binary=:all:", "--python-version=3.11"]
            machine = os.uname().machine
            command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in (36, 34, 28, 17)]
            command += [f"--platform=manylinux2014_{machine}", f"--dest={scratch}/wheels", f"--requirement={LOCK}"]
            done = subprocess.run(command, text=True, capture_output=True, check=False)
            if done.returncode:
                raise BenchError(f"the peers' wheels could not be downloaded: {done.stderr.strip()}")
            pathlib.Path(scratch, "wheels").rename(folder)
    return folder


def await_answers(
    port: int, host: str, authority: pathlib.Path, revision: str = "", path: str = "/", seconds: float = 60.0
) -> None:
    """Wait until twenty requests in a row succeed and return the revision, so that no older worker is left."""
    context = ssl.create_default_context(cafile=authority)
    deadline = time.monotonic() + seconds
    successes, last = 0, ""
    while successes < 20:
        if time.monotonic() > deadline:
            raise BenchError(f"{host} doesn't answer as expected: {last}")
        try:
            last = _answer(port, host, path, context)
            answer = json.loads(last)
            successes = successes + 1 if revision in ("", answer.get("revision")) else 0
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            successes, last = 0, last or repr(error)
        if not successes:
            time.sleep(0.2)


def _answer(port: int, host: str, path: str, context: ssl.SSLContext) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        body = response.read().decode(errors="replace")
        return body if response.status == 200 else f"{response.status} {body[:100]}"
