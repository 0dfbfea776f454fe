"""Requests that a worker makes to its own application before it is admitted, so that no client waits for what the
first ones bring: imports, connections to a database, templates, schemas.

They are calls of the ASGI application, past the server: nothing counts them and no access line is written.
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
ROUNDS = 9  # requests of each path: one takes most of the cost off, these the rest, for a few ms each
AT_ONCE = 2  # requests of a path at a time after its first: a pool opens a second connection only then
ROUNDS_SECONDS = 1.0  # no round after the first begins later than this
LEAVE = 0.5  # seconds that a request has to end when its client has left, before it is cancelled
TICK = 0.02  # seconds between two looks at whether to stop


@dataclass
class Visit:
    """What became of one path."""

    path: str
    status: int | None = None
    error: str = ""
    milliseconds: list[float] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether the answer is none that warms what clients ask for."""
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
        """`timeout` bounds all of it in seconds; each request runs in a copy of `context`; `stop` is asked all the
        time whether to leave off."""
        self._paths = paths
        self._host = host
        self._timeout = timeout
        self._stop = stop
        self._context = context
        # those under way, and those that ignore their cancellation: a loop alone does not keep a task
        self._requests: set[asyncio.Task[None]] = set()

    @classmethod
    def of(cls, cfg: Any, context: contextvars.Context, stop: Callable[[], bool]) -> Warmup:
        """The one that the settings ask for."""
        return cls(
            cfg.handover_warmup_paths,
            host=cfg.handover_warmup_host,
            timeout=cfg.handover_warmup_timeout,
            context=context,
            stop=stop,
        )

    async def report(self, application: Any, state: dict[str, Any], log: Any) -> str | None:
        """As `run`, with a log line for each path. Returns what failed, in one line."""
        visits = await self.run(application, state)
        if self._stop():
            return None
        for visit in visits:
            (log.warning if visit.failed else log.info)("Warm-up: %s", visit)
        failed = "; ".join(str(visit) for visit in visits if visit.failed)
        return f"warm-up failed: {failed}" if failed else None

    async def run(self, application: Any, state: dict[str, Any]) -> list[Visit]:
        """Visits all paths; returns what became of each. `state` is the lifespan's, as requests get it."""
        began = time.monotonic()
        deadline = began + self._timeout
        visits = [Visit(path) for path in self._paths]
        for number, visit in enumerate(visits):
            # a path that hangs leaves the others their share
            share = (deadline - time.monotonic()) / (len(visits) - number)
            await self._request(application, state, visit, share)
            if self._stop():
                return visits
        for _ in range((ROUNDS - 1) // AT_ONCE):
            for visit in visits:
                left = min(deadline, began + ROUNDS_SECONDS) - time.monotonic()
                if visit.failed or left <= 0:
                    continue
                await asyncio.gather(
                    *(self._request(application, state, visit, deadline - time.monotonic()) for _ in range(AT_ONCE))
                )
                if self._stop():
                    return visits
        return visits

    async def _request(self, application: Any, state: dict[str, Any], visit: Visit, seconds: float) -> None:
        """One request, which takes `seconds` at most."""
        began = time.perf_counter()
        client = Client(visit)
        task = asyncio.create_task(
            client.request(application, scope(visit.path, self._host, state)), context=self._context.copy()
        )
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        leave = min(LEAVE, seconds / 4)
        if not await self._ends(task, seconds - leave):
            if not client.answered:
                visit.error = "did not end in time"
            client.leave()
            if not await self._ends(task, leave):
                task.cancel()
                await asyncio.wait({task}, timeout=TICK)
        visit.milliseconds.append((time.perf_counter() - began) * 1000)

    async def _ends(self, task: asyncio.Task[None], seconds: float) -> bool:
        """Waits for a task so many seconds at most, and no longer than until the worker must go; whether it ended."""
        end = time.monotonic() + seconds
        while not task.done() and (left := end - time.monotonic()) > 0 and not self._stop():
            await asyncio.wait({task}, timeout=min(TICK, left))
        return task.done()


class Client:
    """The other end of one request."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._asked = False
        self._status: int | None = None
        self._over = asyncio.Event()  # the response is whole, or the client has left
        self.answered = False

    def leave(self) -> None:
        """Goes away, as a client does that waits no longer."""
        self._over.set()

    async def request(self, application: Any, scope: dict[str, Any]) -> None:
        """Runs the application for it, and notes the outcome."""
        request_id.set(uuid.uuid4().hex)
        visit = self._visit
        try:
            await application(scope, self._receive, self._send)
        except asyncio.CancelledError:
            visit.error = visit.error or "was cancelled"
            raise
        except BaseException as error:  # SystemExit would end the worker
            detail = " ".join(str(error).split())
            visit.error = visit.error or f"raised {type(error).__name__}{': ' + detail if detail else ''}"
        else:
            if not self.answered and not self._over.is_set():
                visit.error = visit.error or "sent no whole response"
        finally:
            if self._status is not None:
                visit.status = max(visit.status or 0, self._status)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        # a server's send lets others run where a client is slow; a stream that waits for nothing must be cut, too
        await asyncio.sleep(0)
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
            self._over.set()


def scope(path: str, host: str, state: dict[str, Any]) -> dict[str, Any]:
    """A request as it comes through a proxy that terminates TLS, once its headers have been believed."""
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
