"""What Uvicorn calls in place of the application: the application, plus the gate before the first request, the access
log, and what a drain needs. All of it by the ASGI interface alone, with no knowledge of Uvicorn's insides."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from gunicorn_handover.logs import request_id
from gunicorn_handover.turns import Turns

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

RESTARTING = 1012  # RFC 6455's registry: Service Restart
SPREAD_TICK = 0.1  # seconds between two looks whether there still is time
EXTENSION = "gunicorn_handover"  # what an application finds in its scope's extensions
CLIENT_GONE = 499  # nginx's word for a client that left before the answer
_ERROR_LOG = logging.getLogger("uvicorn.error")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class WebSocketSession:
    """One WebSocket, which a drain may close between two messages of the application."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.accepted = False
        self.closed = False
        self.restarted = False
        self.disconnected = False
        self.status = 403
        self.close_code: int | None = None

    async def restart(self) -> None:
        """Closes the WebSocket with 1012, unless it isn't open."""
        if not self.accepted or self.closed:
            return
        self.closed = self.restarted = True
        self.close_code = RESTARTING
        # OSError: the client has just left
        with contextlib.suppress(OSError):
            await self._send({"type": "websocket.close", "code": RESTARTING, "reason": "Service Restart"})

    async def send(self, message: Message) -> None:
        """The application's `send`. Raises OSError after a restart, as the ASGI specification asks."""
        if self.restarted:
            raise OSError("The WebSocket is closed: the server is restarting.")
        kind = message["type"]
        if kind == "websocket.close":
            self.closed = True
            self.close_code = message.get("code", 1000)
        elif kind == "websocket.http.response.start":
            self.closed = True
            self.status = message["status"]
        await self._send(message)
        if kind == "websocket.accept":
            self.accepted = True
            self.status = 101

    def observe(self, message: Message) -> Message:
        """What the application is told of `message`, which it receives."""
        if message["type"] == "websocket.disconnect":
            if self.restarted:
                message = {**message, "code": RESTARTING}
            self.closed = self.disconnected = True
            if self.close_code is None:
                self.close_code = message.get("code", 1005)
        return message

    async def part(self, receive: Receive) -> None:
        """After a restart, and when the application has gone: reads on until the client's close frame is here. Some of
        Uvicorn's protocols close the socket as soon as the application ends; unread messages in it would make that a
        reset, which takes the close frame with it."""
        # RuntimeError: a task that the application left behind still receives
        with contextlib.suppress(RuntimeError):
            while self.restarted and not self.disconnected:
                self.observe(await receive())


class ServedApplication:
    """The application as one worker serves it."""

    def __init__(
        self,
        application: Application,
        *,
        gate: Callable[[Application, dict[str, Any]], Awaitable[str | None]],
        explain: Callable[[str], None],
        access_line: Callable[[dict[str, Any]], None] | None,
        urgent_paths: Collection[str] = (),
    ) -> None:
        """`gate` is awaited between the lifespan startup and the first request, with the application and the lifespan's
        state; what it returns is why there must be none. `explain` is told why a startup failed, `access_line` given
        the fields of each request's line; None for no access log. Requests for `urgent_paths` wait for no turn."""
        self._application = application
        self._gate = gate
        self._explain = explain
        self._access_line = access_line
        self._urgent_paths = frozenset(urgent_paths)
        self._turns = Turns()
        self._sessions: set[WebSocketSession] = set()
        self._closes_websockets = False
        self._is_kept: Callable[[Scope], bool] = lambda _: False
        self.draining = False

    def drain(self, is_kept: Callable[[Scope], bool]) -> None:
        """From now on each response that begins ends its connection. `is_kept` says of a request whether its connection
        had one before the drain: who sends it knows this worker, and the application is told that it goes."""
        self.draining = True
        self._is_kept = is_kept

    async def restart_websockets(self, spread: float, hurried: Callable[[], bool]) -> None:
        """Closes all WebSockets with 1012, evenly over `spread` seconds, so that their clients don't all come back in
        one moment; at once when `hurried` says so, and from now on each that opens."""
        self._closes_websockets = True
        began = time.monotonic()
        sessions, closing = list(self._sessions), []
        for number, session in enumerate(sessions):
            due = began + spread * number / len(sessions)
            while (left := due - time.monotonic()) > 0 and not hurried():
                await asyncio.sleep(min(left, SPREAD_TICK))
            # one whose client doesn't read holds up none of the others
            closing.append(asyncio.ensure_future(session.restart()))
        await asyncio.gather(*closing)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            return self._http(scope, receive, send)
        if scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        return self._lifespan(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def admission() -> Message:
            refusal = await self._gate(self._application, scope.get("state", {}))
            if refusal is None:
                return {"type": "lifespan.startup.complete"}
            self._explain(refusal)
            return {"type": "lifespan.startup.failed", "message": refusal}

        async def gated(message: Message) -> None:
            nonlocal answered
            if message["type"] == "lifespan.startup.complete":
                answered = True
                message = await admission()
            elif message["type"] == "lifespan.startup.failed":
                answered = True
                lines = str(message.get("message", "")).strip().splitlines()
                self._explain("lifespan startup failed: " + (lines[-1] if lines else "the application gave no reason"))
            await send(message)

        try:
            await self._application(scope, receive, gated)
        finally:
            # An application that knows no lifespan returns or raises here. It is ready all the same.
            if not answered and (verdict := await admission())["type"] == "lifespan.startup.failed":
                await send(verdict)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        identify(scope)
        extend(scope, self.draining and self._is_kept(scope))
        status: int | None = None
        sent = 0
        complete = False
        client_left = False

        async def observed_receive() -> Message:
            nonlocal client_left
            message = await receive()
            if message["type"] == "http.disconnect":
                client_left = True
            return message

        async def observed_send(message: Message) -> None:
            nonlocal status, sent, complete
            kind = message["type"]
            if kind == "http.response.body":
                sent += len(message.get("body", b""))
                await send(message)
                # only now: Uvicorn refuses a last part that is short of the Content-Length
                complete = not message.get("more_body", False) or complete
                return
            if kind == "http.response.start":
                status = message["status"]
                message = unbuffered(message)
                if self.draining and scope["http_version"].startswith("1"):
                    headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                    message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        try:
            if scope["path"] not in self._urgent_paths:
                await self._turns.come()
            await self._application(scope, observed_receive, observed_send)
        except BaseException as error:
            status = status or 500
            # After a whole response the connection is the next request's, which may be on its way or running already.
            # Uvicorn would close it: for an error page of Starlette's, which raises on, or a background task's failure.
            if not complete or not isinstance(error, Exception):
                raise
            _ERROR_LOG.error("Exception in ASGI application\n", exc_info=error)  # as Uvicorn does
        finally:
            if self._access_line is not None:
                status = status or (CLIENT_GONE if client_left else 500)
                self._access_line(line_of(scope, scope["method"], status, began, sent, "HTTP/" + scope["http_version"]))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        identify(scope)
        extend(scope, self.draining)
        session = WebSocketSession(send)
        sent = 0

        async def observed_receive() -> Message:
            return session.observe(await receive())

        async def observed_send(message: Message) -> None:
            nonlocal sent
            if message["type"] == "websocket.send":
                sent += len(message.get("bytes") or message.get("text") or "")
            await session.send(message)
            if message["type"] == "websocket.accept" and self._closes_websockets:
                await session.restart()

        self._sessions.add(session)
        try:
            await self._application(scope, observed_receive, observed_send)
        except BaseException:
            if not session.accepted:
                session.status = 500
            raise
        finally:
            # a drain past its time cancels, and waits for nobody
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await session.part(receive)
            self._sessions.discard(session)
            if self._access_line is not None:
                fields = line_of(scope, "GET", session.status, began, sent, "websocket")
                self._access_line({**fields, "close_code": session.close_code})


def identify(scope: Scope) -> None:
    """Sets the running task's request id: the client's X-Request-ID where it is fit for a log, else a new one."""
    given = header(scope, b"x-request-id")
    request_id.set(given.decode() if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)


def extend(scope: Scope, draining: bool) -> None:
    """Tells the application of a request's or WebSocket's `scope` whether its worker drains."""
    scope.setdefault("extensions", {})[EXTENSION] = {"draining": draining}


def unbuffered(message: Message) -> Message:
    """The start of a response; that of server-sent events asks nginx to pass them on as they come, unless the
    application has said what it wants of it."""
    headers = message.get("headers", ())
    for name, value in headers:
        # the value first: it is the one that seldom fits
        if value[:17].lower() == b"text/event-stream" and name.lower() == b"content-type":
            break
    else:
        return message
    if any(name.lower() == b"x-accel-buffering" for name, _ in headers):
        return message
    return {**message, "headers": [*message["headers"], (b"x-accel-buffering", b"no")]}


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header called `name` (lower case)."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def line_of(scope: Scope, method: str, status: int, began: float, sent: int, protocol: str) -> dict[str, Any]:
    """The fields of an access line. The query string stays out: it may hold what no log should."""
    client = scope.get("client")
    agent = header(scope, b"user-agent")
    return {
        "request_id": request_id.get(),
        "client": client[0] if client else None,
        "method": method,
        "path": scope["path"],
        "status": status,
        "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        "bytes": sent,
        "protocol": protocol,
        "user_agent": agent.decode("latin-1") if agent is not None else None,
    }
