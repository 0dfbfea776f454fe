"""Load generator: sends requests at a steady rate and records the outcome of every one.

    python -m tests.support.traffic unix:/run/links/web.sock --rate 300 --duration 10 \\
        --load get,path=/,share=6 --load post,path=/echo,share=3,size=100000 --load fresh,path=/,wait=0.5

Each request has an *intended* time on a fixed grid, from which its latency counts (open-loop load), so that a stall of
the server delays all requests that were due in it. Nothing is retried. Requests go only to the given address, and a run
is bounded in time and number.

Kinds of load (`--load KIND,key=value,...`; keys: path, share, size in bytes, json, a document without commas that POST
sends instead, wait in seconds, and expect: text that the answer's body must contain, otherwise the request counts as
`wrong body`):
    get        GET on an idle keep-alive connection, if there is one
    post       POST of `size` bytes on the same connections
    fresh      connect, wait, send: the server has accepted the connection before the request arrives
    idle       a request, wait, another request on the same connection (a new one if the server has closed it)
    upload     POST of `size` bytes, sent in pieces spread over `wait`
    sse        GET that is read to its end; an end without the final chunk counts as `cut`
    websocket  opens, echoes a message every 0.2 s for `wait`, closes; a close by the server with 1012 is no failure, an
               echo without the message is
    feed       opens, receives the server's messages for `wait`, closes; each message must contain `expect`
    h2         GET by HTTP/2 on one connection (TLS only)
    h2post     POST of `size` bytes by HTTP/2
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import gc
import json
import math
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import h11
import httpx
import websockets
from websockets.asyncio.client import connect, unix_connect

READ = 65536  # bytes
SHOWN = 20  # failures that a summary lists individually
STARTED = "started"  # what a generator prints just before its first request
SO_FAR = "so far "  # how a generator's answer to a line on its standard input begins
SETTLED = 10  # requests that are answered before, and after, a measured block
PATIENCE = 600.0  # seconds until a wait is given up
RESTARTING = 1012  # WebSocket close code: Service Restart
NO_CLOSE = 1006  # the connection ended without a close frame


class TrafficError(Exception):
    """A run without a valid result: the generator failed, ended early or sent too few requests."""


class Failure(Exception):  # noqa: N818  an outcome, not an error of the generator
    """A failed request; the text is the cause that it is counted under."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Where the server is: `unix:/path`, `http://host:port` or `https://host:port`."""

    address: str
    host: str = "localhost"  # the Host header and the name in the certificate
    ca_file: str | None = None

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The client's TLS context; None for plain connections."""
        return ssl.create_default_context(cafile=self.ca_file) if self.address.startswith("https://") else None

    @property
    def unix(self) -> str | None:
        """The path of a unix socket."""
        return self.address.removeprefix("unix:") if self.address.startswith("unix:") else None

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host and port of a TCP address."""
        url = httpx.URL(self.address)
        return url.host, url.port or (443 if url.scheme == "https" else 80)


@dataclasses.dataclass(frozen=True)
class Load:
    """One kind of request and its share of the traffic."""

    kind: str
    path: str = "/"
    share: float = 1.0
    size: int = 1000  # bytes of a body
    wait: float = 0.0  # seconds
    expect: str = ""  # text that the answer's body must contain
    json: str = ""  # the body of a POST

    @property
    def content(self) -> bytes:
        """The body of a POST."""
        return self.json.encode() or b"x" * self.size

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a POST that describe its body."""
        return {"Content-Type": "application/json"} if self.json else {}

    def __str__(self) -> str:
        """The text that `parse` reads."""
        text = f"{self.kind},path={self.path},share={self.share},size={self.size},wait={self.wait}"
        for key in ("expect", "json"):
            if value := getattr(self, key):
                text += f",{key}={value}"
        return text

    @classmethod
    def parse(cls, text: str) -> Load:
        """From `KIND,key=value,...`. Raises ValueError."""
        kind, *pairs = text.split(",")
        if kind not in Traffic.KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(Traffic.KINDS)}")
        given = dict(pair.split("=", 1) for pair in pairs)
        types: dict[str, Callable[[str], object]] = {
            "path": str,
            "share": float,
            "size": int,
            "wait": float,
            "expect": str,
            "json": str,
        }
        return cls(kind, **{key: types[key](value) for key, value in given.items()})  # type: ignore[arg-type]


@dataclasses.dataclass
class Summary:
    """The outcomes of all requests. Latencies are in milliseconds, from the intended time to the last byte."""

    sent: int = 0
    ok: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)  # the first ones
    by_kind: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    close_codes: dict[str, int] = dataclasses.field(default_factory=dict)  # of WebSockets
    stopped: bool = False  # by `stop` or a signal; False for a run that ended by itself
    seconds: float = 0.0
    rate: float = 0.0  # achieved requests per second
    lag_ms: float = 0.0  # the longest delay that this client itself caused
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0

    @property
    def failed_total(self) -> int:
        """The number of all failures."""
        return sum(self.failed.values())


class Connection:
    """One HTTP/1.1 connection, by h11 over asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.CLIENT)
        self.idle_since = time.monotonic()

    @classmethod
    async def open(cls, target: Target, tls: ssl.SSLContext | None) -> Connection:
        """Connects. Raises Failure."""
        try:
            if target.unix:
                reader, writer = await asyncio.open_unix_connection(target.unix)
            else:
                host, port = target.endpoint
                name = target.host if tls else None
                reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
        except ConnectionRefusedError:
            raise Failure("refused") from None
        except BlockingIOError:
            raise Failure("backlog full") from None
        except OSError as error:
            raise Failure(f"connect: {error.strerror or error}") from None
        return cls(reader, writer)

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent, as far as the client can see."""
        return self._h11.our_state is h11.IDLE and not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """Closes the connection."""
        self._writer.close()

    async def request(
        self,
        method: str,
        target: Target,
        path: str,
        body: AsyncIterator[bytes] | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Sends a request and reads the whole answer; returns its status and body. Raises Failure."""
        headers = {"Host": target.host, "User-Agent": "traffic", **(headers or {})}
        try:
            self._write(h11.Request(method=method, target=path, headers=list(headers.items())))
            if isinstance(body, bytes):
                if body:
                    self._write(h11.Data(data=body))
                await self._writer.drain()
            else:
                async for piece in body:
                    self._write(h11.Data(data=piece))
                    await self._writer.drain()
            # sends nothing, because the server may have answered and closed after the last piece
            self._write(h11.EndOfMessage())
            return await self._answer()
        except ConnectionResetError:
            raise Failure("reset") from None
        except BrokenPipeError:
            raise Failure("broken pipe") from None
        except OSError as error:
            raise Failure(f"{error.strerror or error}") from None

    def _write(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            self._writer.write(data)

    async def _answer(self) -> tuple[int, bytes]:
        status, body = 0, bytearray()
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:
                raise Failure("cut" if status else "no answer") from None
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._reader.read(READ))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.ConnectionClosed):
                raise Failure("no answer")
            elif isinstance(event, h11.EndOfMessage):
                break
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.idle_since = time.monotonic()
        return status, bytes(body)


class Traffic:
    """A run: the requests and their outcomes. Times are in seconds."""

    KINDS = ("get", "post", "fresh", "idle", "upload", "sse", "websocket", "feed", "h2", "h2post")
    UNTIMED = ("sse", "websocket", "feed")  # kinds that have no latency

    def __init__(
        self,
        target: Target,
        loads: Sequence[Load],
        *,
        rate: float,
        duration: float,
        requests: int = 1_000_000,
        timeout: float = 60.0,
        idle_limit: float = 1.0,
        warmup: float = 0.0,
        outstanding: int = 4000,
    ) -> None:
        """`warmup`: how long no latency counts, because the client opens all its connections at once at the start.

        `idle_limit`: how long an idle connection is reused. Keep it below the server's keep-alive timeout, as a proxy's
        is: a server may close an idle connection just as a request arrives."""
        self._target = target
        self._tls = target.tls
        self._loads = list(loads)
        self._rate = rate
        self._duration = duration
        self._requests = requests
        self._timeout = timeout
        self._idle_limit = idle_limit
        self._warmup = warmup
        self._outstanding = outstanding
        self._pool: list[Connection] = []
        self._http2: httpx.AsyncClient | None = None
        self._latencies: list[float] = []
        self._stop = asyncio.Event()
        self._failed: collections.Counter[str] = collections.Counter()
        self._kinds: dict[str, collections.Counter[str]] = {}
        self._codes: collections.Counter[str] = collections.Counter()
        self._summary = Summary()

    @property
    def so_far(self) -> dict[str, int]:
        """How many requests were sent and completed until now, and how many rounds of all kinds that is."""
        sent = self._summary.sent
        completed = sum(counts["sent"] for counts in self._kinds.values())
        return {"sent": sent, "answered": completed, "rounds": sent // len(self._order())}

    def stop(self) -> None:
        """Sends no more requests; those in progress are completed."""
        self._stop.set()

    async def run(self) -> Summary:
        """Sends, waits for the last answer, and returns the summary."""
        if any(load.kind.startswith("h2") for load in self._loads):
            limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
            # a context of its own: httpx offers h2 on it, which the HTTP/1.1 connections must not offer
            verify = self._target.tls or True
            transport = httpx.AsyncHTTPTransport(http1=False, http2=True, verify=verify, limits=limits, retries=0)
            self._http2 = httpx.AsyncClient(transport=transport, timeout=self._timeout, base_url=self._target.address)
        summary = self._summary
        running: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        count = min(self._requests, math.ceil(self._rate * self._duration))
        order = self._order()
        for number in range(count):
            intended = began + number / self._rate
            delay = intended - time.monotonic()
            if delay > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), delay)
            elif number % 50 == 0:
                await asyncio.sleep(0)
            if self._stop.is_set():
                break
            if intended - began >= self._warmup:
                summary.lag_ms = max(summary.lag_ms, (time.monotonic() - intended) * 1000)
            load = order[number % len(order)]
            summary.sent += 1
            if len(running) >= self._outstanding:
                self._count(load.kind, "too many outstanding", intended - began)
                continue
            task = asyncio.create_task(self._one(load, intended, began))
            running.add(task)
            task.add_done_callback(running.discard)
        summary.stopped = self._stop.is_set()
        summary.seconds = round(time.monotonic() - began, 3)
        if running:
            await asyncio.wait(running)
        for connection in self._pool:
            connection.close()
        if self._http2 is not None:
            await self._http2.aclose()
        return self._sum_up()

    def _order(self) -> list[Load]:
        """The kinds, spread evenly by their shares over a round of at most a few hundred requests."""
        smallest = min(load.share for load in self._loads)
        slots = []
        for load in self._loads:
            part = max(1, round(load.share / smallest))
            slots += [((index + 0.5) / part, load) for index in range(part)]
        return [load for _, load in sorted(slots, key=lambda slot: slot[0])]

    async def _one(self, load: Load, intended: float, began: float) -> None:
        send: Callable[[Load], Awaitable[None]] = getattr(self, f"_{load.kind}")
        cause = None
        try:
            async with asyncio.timeout(self._timeout):
                await send(load)
        except TimeoutError:
            cause = "timeout"
        except Failure as failure:
            cause = str(failure)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
        if cause is None and load.kind not in self.UNTIMED and intended - began >= self._warmup:
            # a load's own waits are not the server's latency
            self._latencies.append(time.monotonic() - intended - load.wait)
        self._count(load.kind, cause, intended - began)

    def _count(self, kind: str, cause: str | None, at: float) -> None:
        counts = self._kinds.setdefault(kind, collections.Counter(sent=0, ok=0, failed=0))
        counts["sent"] += 1
        if cause is None:
            counts["ok"] += 1
            return
        counts["failed"] += 1
        self._failed[cause] += 1
        if len(self._summary.failures) < SHOWN:
            self._summary.failures.append(f"{kind} at {at:.3f} s: {cause}")

    def _sum_up(self) -> Summary:
        summary = self._summary
        summary.failed = dict(self._failed)
        summary.ok = summary.sent - summary.failed_total
        summary.by_kind = {kind: dict(counts) for kind, counts in sorted(self._kinds.items())}
        summary.close_codes = dict(self._codes)
        summary.rate = round(summary.sent / summary.seconds, 1) if summary.seconds else 0.0
        summary.lag_ms = round(summary.lag_ms, 1)
        ordered = sorted(self._latencies)
        if ordered:
            for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)):
                index = min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)
                setattr(summary, name, round(ordered[index] * 1000, 2))
            summary.max = round(ordered[-1] * 1000, 2)
        return summary

    # the kinds of load

    async def _open(self) -> Connection:
        return await Connection.open(self._target, self._tls)

    async def _pooled(self) -> Connection:
        while self._pool:
            connection = self._pool.pop()
            if connection.reusable and time.monotonic() - connection.idle_since < self._idle_limit:
                return connection
            connection.close()
        return await self._open()

    async def _exchange(self, connection: Connection, load: Load, body: AsyncIterator[bytes] | None = None) -> None:
        """Sends a request on the connection; then returns the connection to the pool or closes it."""
        try:
            if load.kind in ("post", "upload"):
                headers = {"Content-Length": str(len(load.content)), **load.headers}
                status, answer = await connection.request(
                    "POST", self._target, load.path, body or load.content, headers
                )
            else:
                status, answer = await connection.request("GET", self._target, load.path)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._pool.append(connection)
        else:
            connection.close()
        _check(load, status, answer)

    async def _get(self, load: Load) -> None:
        await self._exchange(await self._pooled(), load)

    async def _post(self, load: Load) -> None:
        await self._exchange(await self._pooled(), load)

    async def _fresh(self, load: Load) -> None:
        connection = await self._open()
        await asyncio.sleep(load.wait)
        await self._exchange(connection, load)

    async def _idle(self, load: Load) -> None:
        connection = await self._open()
        try:
            _check(load, *await connection.request("GET", self._target, load.path))
        except BaseException:
            connection.close()
            raise
        await asyncio.sleep(load.wait)
        if not connection.reusable:
            connection.close()
            connection = await self._open()
        await self._exchange(connection, load)

    async def _upload(self, load: Load) -> None:
        pieces = 20

        async def body() -> AsyncIterator[bytes]:
            left = load.size
            for piece in range(pieces):
                part = left // (pieces - piece)
                left -= part
                yield b"x" * part
                await asyncio.sleep(load.wait / pieces)

        await self._exchange(await self._open(), load, body())

    async def _sse(self, load: Load) -> None:
        await self._exchange(await self._open(), load)

    async def _websocket(self, load: Load) -> None:
        async def echo(websocket: websockets.ClientConnection) -> None:
            end = time.monotonic() + load.wait
            while time.monotonic() < end:
                await websocket.send("ping")
                if "ping" not in str(await websocket.recv()):
                    raise Failure("wrong body")
                await asyncio.sleep(0.2)

        await self._by_websocket(load, echo)

    async def _feed(self, load: Load) -> None:
        async def receive(websocket: websockets.ClientConnection) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(load.wait):
                    while True:
                        if load.expect not in str(await websocket.recv()):
                            raise Failure("wrong body")

        await self._by_websocket(load, receive)

    async def _by_websocket(self, load: Load, talk: Callable[[websockets.ClientConnection], Awaitable[None]]) -> None:
        uri = f"{'wss' if self._tls else 'ws'}://{self._target.host}{load.path}"
        if self._target.unix:
            opening = unix_connect(self._target.unix, uri, open_timeout=self._timeout)
        else:
            host, port = self._target.endpoint
            opening = connect(uri, host=host, port=port, ssl=self._tls, open_timeout=self._timeout)
        try:
            async with opening as websocket:
                await talk(websocket)
            self._codes["1000"] += 1
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else NO_CLOSE
            self._codes[str(code)] += 1
            if code != RESTARTING:
                raise Failure(f"close {code}") from None
        except websockets.InvalidStatus as error:
            raise Failure(f"HTTP {error.response.status_code}") from None
        except (OSError, websockets.InvalidHandshake) as error:
            raise Failure(f"websocket: {type(error).__name__}") from None

    async def _h2(self, load: Load) -> None:
        await self._by_http2("GET", load, b"")

    async def _h2post(self, load: Load) -> None:
        await self._by_http2("POST", load, load.content, load.headers)

    async def _by_http2(
        self, method: str, load: Load, content: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        assert self._http2 is not None
        try:
            response = await self._http2.request(
                method,
                load.path,
                content=content,
                headers={"Host": self._target.host, **(headers or {})},
                extensions={"sni_hostname": self._target.host},
            )
        except httpx.TransportError as error:
            raise Failure(f"h2: {type(error).__name__}") from None
        _check(load, response.status_code, response.content)


def _check(load: Load, status: int, body: bytes) -> None:
    """Raises Failure for an answer with the wrong status or body."""
    if not 200 <= status < 400:
        raise Failure(f"HTTP {status}")
    if load.expect.encode() not in body:
        raise Failure("wrong body")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 0 when no request failed, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", help="unix:/path, http://host:port or https://host:port")
    parser.add_argument("--host", default="localhost", help="the Host header and the name in the certificate")
    parser.add_argument("--ca-file", help="the authority of the server's certificate")
    parser.add_argument("--load", action="append", type=Load.parse, metavar="KIND,key=value", help="may be repeated")
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds")
    parser.add_argument("--requests", type=int, default=1_000_000, help="the most requests to send")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one request")
    parser.add_argument("--idle-limit", type=float, default=1.0, help="seconds that an idle connection is reused")
    parser.add_argument("--warmup", type=float, default=0.0, help="seconds at the start whose latencies don't count")
    parser.add_argument(
        "--announce",
        action="store_true",
        help=f"print {STARTED!r} before the first request, and the progress for each line on standard input",
    )
    options = parser.parse_args(arguments)
    traffic = Traffic(
        Target(options.target, options.host, options.ca_file),
        options.load or [Load("get")],
        rate=options.rate,
        duration=options.duration,
        requests=options.requests,
        timeout=options.timeout,
        idle_limit=options.idle_limit,
        warmup=options.warmup,
    )

    async def run() -> Summary:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, traffic.stop)
        if options.announce:
            loop.add_reader(sys.stdin.fileno(), report)
            print(STARTED, flush=True)
        return await traffic.run()

    def report() -> None:
        if not os.read(sys.stdin.fileno(), READ):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            return
        print(SO_FAR + json.dumps(traffic.so_far), flush=True)

    # a collection that walks all imported modules would pause the generator for a tenth of a second
    gc.collect()
    gc.freeze()
    summary = asyncio.run(run())
    print(json.dumps({**dataclasses.asdict(summary), "failed_total": summary.failed_total}, indent=1))
    return 1 if summary.failed else 0


class Generator:
    """A generator process that is started and stopped explicitly. Raises TrafficError if its result isn't valid."""

    def __init__(self, target: str, loads: Sequence[str], **options: object) -> None:
        """Starts it and waits until it sends. `options`: those of the command line, by name."""
        self._command = [sys.executable, __file__, target, "--announce"]
        for name, value in options.items():
            self._command += [f"--{name.replace('_', '-')}", str(value)]
        for load in loads:
            self._command += ["--load", load]
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._output: str | None = None  # once it has ended
        if self._stdout.readline().strip() != STARTED:
            self.kill()
            raise TrafficError(f"the generator didn't start (exit status {self._process.returncode})")

    def kill(self) -> None:
        """Kills it; there is no result."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """Stops sending."""
        self._process.send_signal(signal.SIGINT)

    def so_far(self) -> dict[str, int]:
        """How many requests were `sent` and `answered` (or failed), and `rounds` of all kinds; empty once it ended."""
        if self._output is not None:
            return {}
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write("\n")
            self._stdin.flush()
        line = self._stdout.readline()
        if not line.startswith(SO_FAR):
            self._output = line + self._stdout.read()
            return {}
        found: dict[str, int] = json.loads(line.removeprefix(SO_FAR))
        return found

    def wait_for(self, **fewest: int) -> None:
        """Waits until it reaches these numbers or ends, which `summary` reports. Raises TrafficError."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.so_far()) and any(found[what] < count for what, count in fewest.items()):
            if time.monotonic() > deadline:
                raise TrafficError(f"the generator is no further than {found} after {PATIENCE:g} s")
            time.sleep(0.02)

    def settle(self) -> None:
        """Waits until, from now on, requests of all kinds have been sent and some answered."""
        if found := self.so_far():
            self.wait_for(rounds=found["rounds"] + 1, answered=found["answered"] + SETTLED)

    def summary(self, fewest: int, timeout: float | None = None) -> Summary:
        """Waits for the last answers of a stopped generator.

        `fewest`: requests that must have been sent; `timeout`: seconds. Raises TrafficError if it failed, ended before
        it was stopped, or sent fewer."""
        try:
            output = (self._output or "") + self._process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self.kill()
            raise TrafficError(f"the generator still waits for answers after {timeout:g} s") from None
        code = self._process.returncode
        try:
            document = json.loads(output)
        except ValueError:
            raise TrafficError(f"the generator ended with exit status {code} and no summary") from None
        document.pop("failed_total")
        found = Summary(**document)
        if code != (1 if found.failed else 0):
            raise TrafficError(f"the generator ended with exit status {code}")
        if not found.stopped:
            raise TrafficError(f"the generator ended by itself after {found.seconds:g} s: give a longer duration")
        if found.sent < fewest:
            raise TrafficError(f"the generator sent {found.sent} requests, and at least {fewest} were due")
        return found


class Background:
    """Traffic from a separate process while the block runs.

    with Background("unix:/tmp/web.sock", [Load("get")], rate=300, fewest=300) as traffic:
        server.reload()
    assert not traffic.summary.failed
    """

    def __init__(
        self,
        target: str,
        loads: Sequence[Load],
        *,
        rate: float,
        fewest: int,
        duration: float = 7200.0,
        settle: float = 0.0,
        host: str = "localhost",
        ca_file: str | None = None,
        timeout: float = 60.0,
        idle_limit: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        """Begins the block when requests of all kinds have been sent; stops after it when more have been answered, and
        at least `fewest` sent.  Raises TrafficError if the traffic ended before the block did, or failed.
        `duration`: the maximum, in seconds; `settle`: additional seconds of traffic before and after the block;
        `idle_limit`: 0 for a new connection each time; `warmup`: seconds at the start whose latencies don't count."""
        self.summary = Summary()
        self._fewest = fewest
        self._settle = settle
        self._target = target
        self._loads = [str(load) for load in loads]
        self._options: dict[str, object] = {"host": host, "rate": rate, "duration": duration, "timeout": timeout}
        self._options |= {"idle_limit": idle_limit, "warmup": warmup}
        if ca_file:
            self._options["ca_file"] = ca_file

    def __enter__(self) -> Background:
        self._generator = Generator(self._target, self._loads, **self._options)
        try:
            self._generator.settle()
        except BaseException:
            self._generator.kill()
            raise
        time.sleep(self._settle)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._generator.kill()
            return
        time.sleep(self._settle)
        try:
            self._generator.settle()
            self._generator.wait_for(sent=self._fewest)
        except BaseException:
            self._generator.kill()
            raise
        self._generator.stop()
        self.summary = self._generator.summary(self._fewest)


if __name__ == "__main__":
    sys.exit(main())
