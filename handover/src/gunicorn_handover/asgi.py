"""ASGI middleware around the application: holds back the first request until the worker is admitted, refuses requests
with too many header fields, writes the access log, and implements the drain. It uses only the ASGI interface, no
internals of Uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from gunicorn_handover.board import describe
from gunicorn_handover.logs import extension, request_id, trace_id
from gunicorn_handover.turns import Turns

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

RESTARTING = 1012  # RFC 6455's registry: Service Restart
EXTENSION = "gunicorn_handover"  # the key in `scope["extensions"]`
CLIENT_GONE = 499  # nginx's status for a client that closed the connection before the response
_ERROR_LOG = logging.getLogger("uvicorn.error")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class WebSocketSession:
    """One WebSocket. A drain may close it between two messages of the application."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.accepted = False
        self.closed = False
        self.restarted = False
        self.disconnected = False
        self.status = 403
        self.close_code: int | None = None

    async def restart(self) -> None:
        """Closes the WebSocket with 1012 if it is open."""
        if not self.accepted or self.closed:
            return
        self.closed = self.restarted = True
        self.close_code = RESTARTING
        # OSError: the client has just disconnected
        with contextlib.suppress(OSError):
            await self._send({"type": "websocket.close", "code": RESTARTING, "reason": "Service Restart"})

    async def send(self, message: Message) -> None:
        """The application's `send`. Raises OSError after `restart`, as the ASGI specification requires."""
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
        """Records a received `message` and returns it as the application gets it."""
        if message["type"] == "websocket.disconnect":
            if self.restarted:
                message = {**message, "code": RESTARTING}
            self.closed = self.disconnected = True
            if self.close_code is None:
                self.close_code = message.get("code", 1005)
        return message

    async def await_close(self, receive: Receive) -> None:
        """After `restart`, once the application has returned: reads until the client's close frame arrives. Some of
        Uvicorn's protocols close the socket as soon as the application returns; unread messages in it would turn that
        into a reset, and the client would lose the close frame."""
        # RuntimeError: a task that the application left behind is still receiving
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
        on_failure: Callable[[str], None],
        access_line: Callable[[dict[str, Any]], None] | None,
        limit_request_fields: int,
        urgent_paths: Collection[str] = (),
    ) -> None:
        """`gate` is awaited between the lifespan startup and the first request, with the application and the lifespan's
        state; it returns a reason to fail the startup, or None. `on_failure` gets the reason of a failed startup.
        `access_line` gets the fields of each access log line; None disables the log. A request may have at most
        `limit_request_fields` header fields. Requests for `urgent_paths` don't queue."""
        self._application = application
        self._gate = gate
        self._on_failure = on_failure
        self._access_line = access_line
        self._limit_request_fields = limit_request_fields
        self._urgent_paths = frozenset(urgent_paths)
        self._turns = Turns()
        self._sessions: set[WebSocketSession] = set()
        self._closes_websockets = False
        self._is_known_client: Callable[[Scope], bool] = lambda _: False
        self.draining = False

    def drain(self, is_known_client: Callable[[Scope], bool]) -> None:
        """From now on each response closes its connection. `is_known_client` returns whether a request's connection
        carried a request before the drain: only then does the application see `draining`."""
        self.draining = True
        self._is_known_client = is_known_client

    async def restart_websockets(self, spread: float) -> None:
        """Closes all WebSockets with 1012, evenly over `spread` seconds, so that clients don't all reconnect at once;
        immediately if it isn't positive. WebSockets that open later are closed immediately."""
        self._closes_websockets = True
        began = time.monotonic()
        sessions, closing = list(self._sessions), []
        for number, session in enumerate(sessions):
            await asyncio.sleep(began + spread * number / len(sessions) - time.monotonic())
            # a client that doesn't read must not block the others
            closing.append(asyncio.ensure_future(session.restart()))
        await asyncio.gather(*closing)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            return self._http(scope, receive, send)
        if scope["type"] == "websocket":
            return self._websocket(scope, receive, send)
        return self._lifespan(scope, receive, send)

    def _responder(self, scope: Scope) -> Application:
        """What responds to a request or WebSocket: the application, unless it has too many header fields."""
        return self._application if len(scope["headers"]) <= self._limit_request_fields else refuse_header_fields

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def admission() -> Message:
            refusal = await self._gate(self._application, scope.get("state", {}))
            if refusal is None:
                return {"type": "lifespan.startup.complete"}
            self._on_failure(refusal)
            return {"type": "lifespan.startup.failed", "message": refusal}

        async def gated(message: Message) -> None:
            nonlocal answered
            if message["type"] == "lifespan.startup.complete":
                answered = True
                message = await admission()
            elif message["type"] == "lifespan.startup.failed":
                answered = True
                lines = str(message.get("message", "")).strip().splitlines()
                self._on_failure(
                    "lifespan startup failed: " + (lines[-1] if lines else "the application gave no reason")
                )
            await send(message)

        try:
            await self._application(scope, receive, gated)
        except (SystemExit, KeyboardInterrupt) as error:
            if not answered:
                answered = True
                self._on_failure(describe(error))
                await send({"type": "lifespan.startup.failed", "message": describe(error)})
            raise
        finally:
            # An application without lifespan support returns or raises here. It is ready nevertheless.
            if not answered and (verdict := await admission())["type"] == "lifespan.startup.failed":
                await send(verdict)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        set_request_id(scope)
        add_extension(scope, self.draining and self._is_known_client(scope))
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
                # only after the send: Uvicorn refuses a last part that is shorter than the Content-Length
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
                await self._turns.wait()
            await self._responder(scope)(scope, observed_receive, observed_send)
        except BaseException as error:
            status = status or 500
            # After a complete response the connection may already carry the next request. Uvicorn would close it for
            # an error raised after the response: Starlette's error page re-raises, and a background task may fail.
            if not complete or not isinstance(error, Exception):
                raise
            _ERROR_LOG.error("Exception in ASGI application\n", exc_info=error)  # as Uvicorn does
        finally:
            if self._access_line is not None:
                status = status or (CLIENT_GONE if client_left else 500)
                self._access_line(
                    access_fields(scope, scope["method"], status, began, sent, "HTTP/" + scope["http_version"])
                )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        set_request_id(scope)
        add_extension(scope, self.draining)
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
            await self._responder(scope)(scope, observed_receive, observed_send)
        except BaseException:
            if not session.accepted:
                session.status = 500
            raise
        finally:
            # a drain past graceful_timeout cancels without waiting
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                await session.await_close(receive)
            self._sessions.discard(session)
            if self._access_line is not None:
                fields = access_fields(scope, "GET", session.status, began, sent, "websocket")
                self._access_line({**fields, "close_code": session.close_code})


async def refuse_header_fields(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Answers 431, as Gunicorn's own workers do. The connection stays open: closed with an unread body, it would be
    reset, and nginx would answer 502."""
    _ERROR_LOG.warning("Request with %d header fields: limit_request_fields is exceeded", len(scope["headers"]))
    response = "http.response" if scope["type"] == "http" else "websocket.http.response"
    body = b"Request Header Fields Too Large"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": f"{response}.start", "status": 431, "headers": headers})
    await send({"type": f"{response}.body", "body": body})


def set_request_id(scope: Scope) -> None:
    """Sets the current task's request id: the client's X-Request-ID if it is safe to log, otherwise a new one."""
    given = header(scope, b"x-request-id")
    request_id.set(given.decode() if given and _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)


def add_extension(scope: Scope, draining: bool) -> None:
    """Adds this package's extension to the `scope` of a request or WebSocket. The application may set `trace_id` in it,
    for the log lines of this request."""
    added = {"draining": draining}
    extension.set(added)
    scope.setdefault("extensions", {})[EXTENSION] = added


def unbuffered(message: Message) -> Message:
    """A response's start message. For server-sent events it gets `X-Accel-Buffering: no`, so that nginx doesn't buffer
    them, unless the application has set that header itself."""
    headers = message.get("headers", ())
    for name, value in headers:
        # the value first: it matches less often
        if value[:17].lower() == b"text/event-stream" and name.lower() == b"content-type":
            break
    else:
        return message
    if any(name.lower() == b"x-accel-buffering" for name, _ in headers):
        return message
    return {**message, "headers": [*message["headers"], (b"x-accel-buffering", b"no")]}


def header(scope: Scope, name: bytes) -> bytes | None:
    """The value of the first header called `name` (lower case); None if there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def access_fields(scope: Scope, method: str, status: int, began: float, sent: int, protocol: str) -> dict[str, Any]:
    """The fields of an access log line. It omits the query string, which may contain secrets."""
    client = scope.get("client")
    agent = header(scope, b"user-agent")
    trace = trace_id()
    return {
        "request_id": request_id.get(),
        **({"trace_id": trace} if trace else {}),
        "client": client[0] if client else None,
        "method": method,
        "path": scope["path"],
        "status": status,
        "duration_ms": round((time.perf_counter() - began) * 1000, 3),
        "bytes": sent,
        "protocol": protocol,
        "user_agent": agent.decode("latin-1") if agent is not None else None,
    }
