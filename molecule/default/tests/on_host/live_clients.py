"""Clients of the reference application, on a host that the edge trusts as a proxy, so that each has its own address.

    live_clients.py SPECIFICATION FOLDER

Clients keep WebSockets and server-sent event streams open, and reconnect when these end; others follow a link and ask
for jobs at a steady rate. Writes FOLDER/open as soon as all streams are open. When FOLDER/end exists, no more requests
are sent, and the clients stop as soon as each has the event of the last click. Prints a report as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib
import random
import ssl
import sys
import time
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake


@dataclasses.dataclass
class Specification:
    """What the clients do; rates per second."""

    address: str
    name: str
    ca_file: str
    slug: str
    # id of the event after which the clients begin
    after: str
    websockets: int
    streams: int
    click_rate: float
    job_rate: float
    # seconds that a job takes, in turn
    job_seconds: list[float]


@dataclasses.dataclass
class Watcher:
    """The events that one client received, by their ids."""

    number: int
    # id of the event after which the client resumes
    after: str
    ids: list[str] = dataclasses.field(default_factory=list)
    # events whose ids the server no longer has
    gaps: int = 0
    complete: bool = False


class Clients:
    """All clients of a run."""

    def __init__(self, specification: Specification, folder: pathlib.Path) -> None:
        self._spec = specification
        self._folder = folder
        self._context = ssl.create_default_context(cafile=specification.ca_file)
        self._addresses = itertools.count(1)
        self._open: set[int] = set()
        self._ending = asyncio.Event()
        self._last_click = 0
        self.clicks = 0
        self.jobs: list[int] = []
        self.failures: collections.Counter[str] = collections.Counter()
        self.closed: collections.Counter[str] = collections.Counter()
        # when WebSockets were closed with 1012, in seconds since the epoch
        self.restarts: list[float] = []

    def _forwarded(self) -> dict[str, str]:
        """Headers of a client with an address that no other client has."""
        number = next(self._addresses)
        return {"X-Forwarded-For": f"198.18.{number >> 8 & 255}.{number & 255}"}

    async def run(self) -> dict[str, Any]:
        spec = self._spec
        watchers = [Watcher(number, spec.after) for number in range(spec.websockets + spec.streams)]
        async with asyncio.TaskGroup() as tasks:
            for watcher in watchers:
                watch = self._watch_websocket if watcher.number < spec.websockets else self._watch_stream
                tasks.create_task(self._reconnect(watcher, watch))
            while len(self._open) < len(watchers):
                await asyncio.sleep(0.1)
            (self._folder / "open").touch()
            senders = [
                tasks.create_task(self._repeat(spec.click_rate, self._click)),
                tasks.create_task(self._repeat(spec.job_rate, self._ask_for_job)),
            ]
            while not (self._folder / "end").exists():
                await asyncio.sleep(0.1)
            self._ending.set()
            await asyncio.wait(senders)
            # the event of a click is lost when Redis is slow: a further click has one
            while not all(watcher.complete for watcher in watchers):
                self._last_click = self._last_click or self.clicks + 1
                await self._click()
                await asyncio.sleep(1)
        # each ended with an event of one of the last clicks: all have the events up to the first of these
        common = min(len(watcher.ids) for watcher in watchers)
        sequences = collections.Counter(
            hashlib.sha256(" ".join(watcher.ids[:common]).encode()).hexdigest() for watcher in watchers
        )
        return {
            "clicks": self.clicks,
            "jobs": self.jobs,
            "events": common,
            "sequences": sorted(sequences.values()),
            "repeated": sum(len(watcher.ids) - len(set(watcher.ids)) for watcher in watchers),
            "gaps": sum(watcher.gaps for watcher in watchers),
            "closed": self.closed,
            "restarts": self.restarts,
            "failures": self.failures,
        }

    async def _repeat(self, rate: float, send: Any) -> None:
        """Send requests at a rate, whatever earlier ones take, and wait until all are answered."""
        sent = set()
        while not self._ending.is_set() and rate:
            sent.add(asyncio.create_task(send()))
            await asyncio.sleep(1 / rate)
        await asyncio.gather(*sent)

    async def _request(self, method: str, path: str, expected: int) -> str | None:
        """The body of an answer; None, and a failure, for any but the expected status."""
        spec = self._spec
        try:
            reader, writer = await asyncio.open_connection(
                spec.address, 443, ssl=self._context, server_hostname=spec.name
            )
            try:
                writer.write(self._head(method, path, self._forwarded()))
                answer = await reader.read()
            finally:
                writer.close()
        except OSError as error:
            self.failures[f"{method}: {error!r}"] += 1
            return None
        head, _, body = answer.decode().partition("\r\n\r\n")
        if head.split()[1:2] != [str(expected)]:
            self.failures[f"{method}: {head.splitlines()[:1]}"] += 1
            return None
        return body

    def _head(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        # HTTP/1.0: the answer isn't chunked, and ends with the connection
        lines = [f"{method} {path} HTTP/1.0", f"Host: {self._spec.name}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _click(self) -> None:
        if await self._request("GET", f"/{self._spec.slug}", 307) is not None:
            self.clicks += 1

    async def _ask_for_job(self) -> None:
        seconds = self._spec.job_seconds[len(self.jobs) % len(self._spec.job_seconds)]
        body = await self._request("POST", f"/api/jobs?seconds={seconds}", 200)
        if body is not None:
            self.jobs.append(json.loads(body)["id"])

    async def _reconnect(self, watcher: Watcher, watch: Any) -> None:
        headers = self._forwarded()
        while not watcher.complete:
            try:
                await watch(watcher, headers)
            except (OSError, EOFError, InvalidHandshake, ValueError) as error:
                self.failures[f"{watch.__name__}: {error!r}"] += 1
            if not watcher.complete:
                await asyncio.sleep(random.uniform(0.1, 1))

    def _take(self, watcher: Watcher, event: dict[str, Any]) -> None:
        if event["slug"] is None:
            watcher.gaps += 1
            return
        watcher.after = event["id"]
        watcher.ids.append(watcher.after)
        last = self._last_click
        watcher.complete = bool(last) and event["slug"] == self._spec.slug and event["clicks"] >= last

    async def _watch_websocket(self, watcher: Watcher, headers: dict[str, str]) -> None:
        spec = self._spec
        async with connect(
            f"wss://{spec.name}/api/clicks/live?after={watcher.after}",
            host=spec.address,
            port=443,
            ssl=self._context,
            additional_headers=headers,
            compression=None,
            open_timeout=None,
            ping_interval=None,
        ) as connection:
            self._open.add(watcher.number)
            try:
                async for message in connection:
                    self._take(watcher, json.loads(message))
                    if watcher.complete:
                        return
            except ConnectionClosed:
                pass
        self.closed[f"WebSocket {connection.close_code}"] += 1
        if connection.close_code == 1012:
            self.restarts.append(time.time())

    async def _watch_stream(self, watcher: Watcher, headers: dict[str, str]) -> None:
        spec = self._spec
        reader, writer = await asyncio.open_connection(spec.address, 443, ssl=self._context, server_hostname=spec.name)
        try:
            writer.write(self._head("GET", "/api/clicks/events", {**headers, "Last-Event-ID": watcher.after}))
            status = await reader.readline()
            if status.split()[1:2] != [b"200"]:
                message = status.decode(errors="replace").strip() or "no answer"
                raise ValueError(message)
            self._open.add(watcher.number)
            data = b""
            while line := await reader.readline():
                if line.startswith(b"data:"):
                    data = line.removeprefix(b"data:")
                # an event that the end of the connection cuts off isn't one
                elif not line.strip() and data:
                    self._take(watcher, json.loads(data))
                    data = b""
                if watcher.complete:
                    return
        finally:
            writer.close()
        self.closed["stream"] += 1


if __name__ == "__main__":
    specification = Specification(**json.loads(pathlib.Path(sys.argv[1]).read_text()))
    print(json.dumps(asyncio.run(Clients(specification, pathlib.Path(sys.argv[2])).run())))
