"""The container image of the reference application: built, run with limits, and stopped under load."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.program import load

PROJECT = pathlib.Path(__file__).parents[3]
fleet = load(PROJECT / "fleet/fleet.py", "fleet_of_images")
SUITE = "trixie"
# as confined as in Kubernetes
CONFINED = ["--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"]
CLIENTS = 20
FEW = 5
ENOUGH = 500  # answers before the stop
SLOW = 5  # seconds, within graceful_timeout
LIMIT = 300  # seconds after which a hanging test fails
# if the machine stalls for some seconds, clients must not look idle, nor requests endless
PATIENT = "--env=GUNICORN_CMD_ARGS=--keep-alive=120 --graceful-timeout=120"


@pytest.fixture(scope="session")
def engine() -> Any:
    """The container engine, as the fleet uses it."""
    with fleet.alone():
        return fleet.Engine()


@pytest.fixture(scope="session")
def image(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image, built as in the README, but on the fleet's Debian image, as no registry may be reachable."""
    with fleet.alone():
        images = fleet.Images(engine)
        images.build_missing({SUITE})
    name = f"localhost/baton-test-links:{images.tag}"
    context = tmp_path_factory.mktemp("base")
    # python:3.13-slim has venv, Debian's Python doesn't
    (context / "Containerfile").write_text(
        f"FROM {images.name(SUITE)}\n"
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null\n"
    )
    # no layers, so that no cached images are left
    layers = [] if engine.name == "docker" else ["--layers=false"]
    options = ["--quiet", *layers, f"--label={fleet.LABEL}=image"]
    engine("build", *options, "-t", f"{name}-base", str(context))
    containerfile = str(PROJECT / "app/Containerfile")
    arguments = [f"--build-arg=BASE={name}-base", "--build-arg=RELEASE=v1"]
    engine("build", *options, *arguments, "-t", name, "-f", containerfile, str(PROJECT))
    yield name
    engine("rmi", "--force", name, f"{name}-base")


class Container:
    """A container of the image, with its port published on loopback, and its /tmp in a local folder."""

    def __init__(self, engine: Any, image: str, folder: pathlib.Path, *options: str) -> None:
        self._engine = engine
        self.folder = folder
        folder.chmod(0o1777)
        options = (*CONFINED, f"--volume={folder}:/tmp", "--publish=127.0.0.1::8000", *options)
        self.id = engine("run", "--detach", *options, image)

    @property
    def port(self) -> int:
        """The local port."""
        return int(self._engine("port", self.id, "8000").rpartition(":")[2])

    def __call__(self, *command: str) -> str:
        """The output of a command in the container."""
        output: str = self._engine("exec", self.id, *command)
        return output

    def inspect(self, what: str) -> str:
        """The result of `inspect` with a Go template expression."""
        output: str = self._engine("inspect", "--format", f"{{{{{what}}}}}", self.id)
        return output

    def wait_ready(self) -> int:
        """Wait until all workers serve; return their number."""
        end = time.monotonic() + LIMIT
        states: list[str] = []
        while time.monotonic() < end:
            # read locally: a command in the container would use its processor
            with contextlib.suppress(FileNotFoundError):
                found = json.loads((self.folder / "handover.json").read_text())
                states = [worker["state"] for worker in found["workers"]]
                if states == ["ready"] * found["workers_wanted"]:
                    return len(states)
            time.sleep(0.2)
        raise AssertionError(f"not ready: {states}\n" + "\n".join(self.logs()))

    def logs(self) -> list[str]:
        """Its log lines; those on stderr, where there should be none, are prefixed."""
        done = subprocess.run(
            [self._engine.name, "logs", self.id],
            env=self._engine.environment,
            text=True,
            capture_output=True,
            check=True,
        )
        return done.stdout.splitlines() + [f"stderr: {line}" for line in done.stderr.splitlines()]


@pytest.fixture
def start(engine: Any, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Container]]:
    """Starts containers, and removes them at the end."""
    started: list[Container] = []

    def begin(*options: str) -> Container:
        started.append(Container(engine, image, tmp_path_factory.mktemp("tmp"), *options))
        return started[-1]

    yield begin
    for container in started:
        engine("rm", "--force", *([] if engine.name == "docker" else ["--time=0"]), container.id)


@pytest.mark.parametrize(
    ("options", "workers"),
    [
        # three quarters of 512 MiB are enough for one worker of 200
        (["--memory=512m"], 1),
        (["--memory=512m", "--env=WEB_CONCURRENCY=2"], 2),
    ],
    ids=["memory", "environment"],
)
def test_memory_or_environment_determines_workers(
    start: Callable[..., Container], options: list[str], workers: int
) -> None:
    assert start(*options).wait_ready() == workers


def test_invalid_number_of_workers_fails_start(start: Callable[..., Container], engine: Any) -> None:
    container = start("--env=WEB_CONCURRENCY=many")
    assert engine("wait", container.id) == "1"
    assert container.logs() == [
        "stderr: Error: WEB_CONCURRENCY is 'many'. Set it to a number of workers, 1 or more, or unset it."
    ]


@dataclasses.dataclass
class Count:
    """The results of requests on connections that the server had accepted."""

    sent: int = 0
    answered: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)


class Client:
    """A proxy's connection to the container, kept alive until the server announces its close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Count) -> None:
        self._reader = reader
        self._writer = writer
        self._count = count

    @classmethod
    async def connect(cls, port: int, count: Count) -> Client:
        """A new connection."""
        return cls(*await asyncio.open_connection("127.0.0.1", port), count)

    async def ask(self, path: str) -> bool:
        """Sends a request and reads the response. Returns whether the connection stays open."""
        self._count.sent += 1
        try:
            self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            await self._reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self._count.lost.append(f"{path}: {error!r}")
            return False
        if not head.startswith("http/1.1 200 "):
            self._count.lost.append(f"{path}: {head}")
        self._count.answered += 1
        return "connection: close" not in head


async def stop_under_load(container: Container, engine: Any) -> Count:
    """Stops the container as Kubernetes does after preStop: there are no new connections, and clients continue on
    those that they have. No server can save a connection made at the moment when the last listener closes."""
    count = Count()
    draining = asyncio.Event()

    async def steady(client: Client) -> None:
        while await client.ask("/healthz"):
            pass
        draining.set()

    async def quiet(client: Client) -> None:
        """A client that has connected, and sends its first request during the drain."""
        await draining.wait()
        await client.ask("/healthz")

    clients = [await Client.connect(container.port, count) for _ in range(CLIENTS + 2 * FEW)]
    async with asyncio.TaskGroup() as tasks:
        for client in clients[:CLIENTS]:
            tasks.create_task(steady(client))
        for client in clients[CLIENTS:-FEW]:
            tasks.create_task(quiet(client))
        while count.answered < ENOUGH:
            await asyncio.sleep(0.05)
        for client in clients[-FEW:]:
            tasks.create_task(client.ask(f"/api/slow?seconds={SLOW}"))
        await asyncio.sleep(0)
        # in a thread, as this event loop must continue to send
        await asyncio.to_thread(engine, "stop", "--time=200", container.id)
    return count


def test_container_respects_quota_and_loses_no_request_at_stop(start: Callable[..., Container], engine: Any) -> None:
    container = start("--cpus=1", "--memory=2g", "--env=LINKS_DEMO_ENDPOINTS=true", PATIENT)
    # 2n + 1 with n = 1 from its quota, however many processors the machine has
    assert container.wait_ready() == 3

    assert len(list((container.folder / "metrics").glob("worker*.lock"))) == 3

    uids = container("sh", "-c", "sed -n 's/^Uid:[[:space:]]*//p' /proc/[0-9]*/status")
    assert set(uids.split()) == {"10001"}
    assert container("find", "/opt/links", "-writable", "-not", "-type", "l") == ""
    # the first proves that tools are found
    look = "for tool in sh gcc cc make pip git; do command -v $tool; done; true"
    assert [pathlib.PurePath(found).name for found in container("sh", "-c", look).split()] == ["sh"]

    count = asyncio.run(asyncio.wait_for(stop_under_load(container, engine), LIMIT))
    assert (count.lost, count.answered) == ([], count.sent)
    assert container.inspect(".State.ExitCode") == "0"
    lines = container.logs()
    assert [line for line in lines if not line.startswith("{")] == []
    # the requests that the server has logged
    paths = [entry["path"] for entry in map(json.loads, lines) if entry["logger"] == "access"]
    assert len(paths) == count.answered
    assert paths.count("/api/slow") == FEW
