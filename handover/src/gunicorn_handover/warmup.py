"""Requests that a worker sends to its own application before it is admitted, so that no client waits for the work that
the first requests cause: imports, database connections, templates, schemas.

They call the ASGI application directly: they aren't counted, and aren't in the access log.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import urllib.parse
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gunicorn_handover import __version__
from gunicorn_handover.asgi import EXTENSION
from gunicorn_handover.logs import request_id

AGENT = f"gunicorn-handover-warmup/{__version__}"
ROUNDS = 9  # requests of each path: the first has most of the cost, the others a few ms each
CONCURRENCY = 2  # simultaneous requests of a path after its first: only then does a pool open a second connection
ROUNDS_SECONDS = 1.0  # no round starts later than this, except the first
DISCONNECT_GRACE = 0.5  # seconds between a request's disconnect and its cancellation
TICK = 0.02  # seconds between two checks whether to stop


@dataclass
class PathResult:
    """The result of one path."""

    path: str
    status: int | None = None
    error: str = ""
    milliseconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the path had an error, or no response below 400."""
        return bool(self.error) or self.status is None or self.status >= 400

    def __str__(self) -> str:
        first, rest = self.milliseconds[:1], self.milliseconds[1:]
        text = f"GET {self.path} {self.error or self.status}"
        if first:
            text += f" in {first[0]:.0f} ms"
        if rest:
            text += f", then {min(rest):.0f} ms ({len(rest)} more)"
        return text


class Warmup:
    """The warm-up of one worker."""

    def __init__(
        self,
        paths: Sequence[str],
        *,
        host: str,
        timeout: float,
        context: contextvars.Context,
        stop: Callable[[], bool],
    ) -> None:
        """`timeout` limits the whole warm-up, in seconds; each request runs in a copy of `context`; the warm-up ends
        when `stop`, which is polled, returns true."""
        self._paths = paths
        self._host = host
        self._timeout = timeout
        self._stop = stop
        self._context = context
        # running requests, and those that ignore cancellation: the event loop keeps only weak references to tasks
        self._requests: set[asyncio.Task[None]] = set()

    @classmethod
    def from_config(cls, cfg: Any, context: contextvars.Context, stop: Callable[[], bool]) -> Warmup:
        """The warm-up that the settings define."""
        return cls(
            cfg.handover_warmup_paths,
            host=cfg.handover_warmup_host,
            timeout=cfg.handover_warmup_timeout,
            context=context,
            stop=stop,
        )

    async def run_and_log(self, application: Any, state: dict[str, Any], log: Any) -> str | None:
        """Calls `run` and logs a line for each path. Returns what failed, in one line; None if nothing did."""
        results = await self.run(application, state)
        if self._stop():
            return None
        for result in results:
            (log.warning if result.failed else log.info)("Warm-up: %s", result)
        failed = "; ".join(str(result) for result in results if result.failed)
        return f"warm-up failed: {failed}" if failed else None

    async def run(self, application: Any, state: dict[str, Any]) -> list[PathResult]:
        """Requests all paths and returns their results. `state` is the lifespan's, which requests get."""
        began = time.monotonic()
        deadline = began + self._timeout
        results = [PathResult(path) for path in self._paths]
        for number, result in enumerate(results):
            # a path that hangs must leave time for the others
            share = (deadline - time.monotonic()) / (len(results) - number)
            await self._request(application, state, result, share)
            if self._stop():
                return results
        for _ in range((ROUNDS - 1) // CONCURRENCY):
            for result in results:
                left = min(deadline, began + ROUNDS_SECONDS) - time.monotonic()
                if result.failed or left <= 0:
                    continue
                await asyncio.gather(
                    *(
                        self._request(application, state, result, deadline - time.monotonic())
                        for _ in range(CONCURRENCY)
                    )
                )
                if self._stop():
                    return results
        return results

    async def _request(self, application: Any, state: dict[str, Any], result: PathResult, seconds: float) -> None:
        """Makes one request, which may take `seconds`."""
        began = time.perf_counter()
        client = Client(result)
        task = asyncio.create_task(
            client.request(application, scope(result.path, self._host, state)), context=self._context.copy()
        )
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        grace = min(DISCONNECT_GRACE, seconds / 4)
        if not await self._wait(task, seconds - grace):
            if not client.answered:
                result.error = "timed out"
            client.disconnect()
            if not await self._wait(task, grace):
                task.cancel()
                await asyncio.wait({task}, timeout=TICK)
        result.milliseconds.append((time.perf_counter() - began) * 1000)

    async def _wait(self, task: asyncio.Task[None], seconds: float) -> bool:
        """Waits for a task, at most `seconds`, and only until `stop` returns true. Returns whether the task is done."""
        end = time.monotonic() + seconds
        while not task.done() and (left := end - time.monotonic()) > 0 and not self._stop():
            await asyncio.wait({task}, timeout=min(TICK, left))
        return task.done()


class Client:
    """The client side of one request."""

    def __init__(self, result: PathResult) -> None:
        self._result = result
        self._request_sent = False
        self._status: int | None = None
        self._finished = asyncio.Event()  # the response is complete, or the client has disconnected
        self.answered = False

    def disconnect(self) -> None:
        """Disconnects, like a client that stops waiting."""
        self._finished.set()

    async def request(self, application: Any, scope: dict[str, Any]) -> None:
        """Runs the application, and records the result."""
        request_id.set(uuid.uuid4().hex)
        result = self._result
        try:
            await application(scope, self._receive, self._send)
        except asyncio.CancelledError:
            result.error = result.error or "was cancelled"
            raise
        except BaseException as error:  # SystemExit would end the worker
            detail = " ".join(str(error).split())
            result.error = result.error or f"raised {type(error).__name__}{': ' + detail if detail else ''}"
        else:
            if not self.answered and not self._finished.is_set():
                result.error = result.error or "sent no complete response"
        finally:
            if self._status is not None:
                result.status = max(result.status or 0, self._status)

    async def _receive(self) -> dict[str, Any]:
        if not self._request_sent:
            self._request_sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._finished.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        # a server's send yields while a client is slow; here too, or a stream that never waits couldn't be cancelled
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
            self._finished.set()


def scope(path: str, host: str, state: dict[str, Any]) -> dict[str, Any]:
    """The scope of a request that came through a trusted proxy that terminates TLS."""
    raw, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": urllib.parse.unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"host", host.encode()),
            (b"x-forwarded-for", b"127.0.0.1"),
            (b"x-forwarded-proto", b"https"),
            (b"x-forwarded-host", host.encode()),
            (b"x-real-ip", b"127.0.0.1"),
            (b"user-agent", AGENT.encode()),
            (b"accept", b"*/*"),
        ],
        "client": ("127.0.0.1", 0),
        "server": (host, 443),
        "state": state.copy(),
        "extensions": {EXTENSION: {"draining": False}},
    }
