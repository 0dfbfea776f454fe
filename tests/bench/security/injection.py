"""HTTP/2 requests that try to inject a second one, or headers, into the HTTP/1.1 between the edge and the application.

hpack and hyperframe write the frames, since h2 itself refuses most of them.
"""

from __future__ import annotations

import contextlib
import pathlib
import socket
import ssl

import hpack
from hyperframe import frame

Headers = list[tuple[bytes, bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# part of the injected requests' paths: the application's log must not have it
INJECTED = "smuggled"
SECONDS = 20.0  # after which a connection without data counts as silent


def requests(name: str) -> dict[str, tuple[Headers, bytes, Headers]]:
    """The requests by name: headers, body and trailers. `name`: the site's."""
    host = name.encode()
    second = b"GET /" + INJECTED.encode() + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    pseudo = {b":method": b"GET", b":scheme": b"https", b":authority": host, b":path": b"/healthz"}

    def request(*more: tuple[bytes, bytes], first: Headers | None = None, **changed: bytes) -> Headers:
        replaced = {f":{key}".encode(): value for key, value in changed.items()}
        return [*(first or []), *(pseudo | replaced).items(), *more]

    def without(key: bytes) -> Headers:
        return [pair for pair in request() if pair[0] != key]

    def post(*more: tuple[bytes, bytes]) -> Headers:
        return request(*more, method=b"POST", path=b"/api/links")

    chunked = b"0\r\n\r\n" + second
    headers: dict[str, Headers] = {
        "CRLF in a value": request((b"x-a", b"b\r\nx-injected: 1")),
        "LF in a value": request((b"x-a", b"b\nx-injected: 1")),
        "CR in a value": request((b"x-a", b"b\rx-injected: 1")),
        "NUL in a value": request((b"x-a", b"b\0c")),
        "a request in a value": request((b"x-a", b"b\r\n\r\n" + second)),
        "CRLF at a value's end": request((b"x-a", b"b\r\n")),
        "CRLF in a cookie": request((b"cookie", b"a=b\r\n\r\n" + second)),
        "CRLF in user-agent": request((b"user-agent", b"a\r\ntransfer-encoding: chunked")),
        "CRLF in a name": request((b"x-a: b\r\nx-injected", b"1")),
        "LF in a name": request((b"x-a: b\nx-injected", b"1")),
        "NUL in a name": request((b"x-\0a", b"1")),
        "colon in a name": request((b"x-a: b", b"1")),
        "space in a name": request((b"x-a ", b"1")),
        "upper case in a name": request((b"X-Upper", b"1")),
        "empty name": request((b"", b"1")),
        "transfer-encoding in a name": request((b"transfer-encoding: chunked\r\nx-a", b"1")),
        "CRLF in the path": request(path=b"/healthz HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" + second[:-4]),
        "LF in the path": request(path=b"/healthz\nx-injected: 1"),
        "space in the path": request(path=b"/healthz HTTP/1.1"),
        "NUL in the path": request(path=b"/healthz\0"),
        "empty path": request(path=b""),
        "path without a slash": request(path=b"healthz"),
        "path with another host": request(path=b"http://other.example/healthz"),
        "CRLF in the method": request(method=b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\nGET"),
        "space in the method": request(method=b"GET /" + INJECTED.encode() + b" HTTP/1.1"),
        "lower-case method": request(method=b"get"),
        "CRLF in the host": request(authority=host + b"\r\nx-injected: 1"),
        "slash in the host": request(authority=host + b"/x"),
        "text as the host's port": request(authority=host + b":text"),
        "CRLF in the scheme": request(scheme=b"https\r\nx-injected: 1"),
        "another host": request((b"host", b"other.example")),
        "two hosts": request((b"host", host), (b"host", b"other.example")),
        "connection": request((b"connection", b"close")),
        "connection that names a header": request((b"connection", b"x-request-id, host")),
        "keep-alive": request((b"keep-alive", b"timeout=5")),
        "proxy-connection": request((b"proxy-connection", b"keep-alive")),
        "upgrade": request((b"connection", b"upgrade"), (b"upgrade", b"h2c"), (b"http2-settings", b"")),
        "te": request((b"te", b"gzip")),
        "two methods": request(first=[(b":method", b"POST")]),
        "two paths": request(first=[(b":path", b"/" + INJECTED.encode())]),
        "two authorities": request(first=[(b":authority", b"other.example")]),
        "two schemes": request(first=[(b":scheme", b"http")]),
        "pseudo-header after a header": [(b"x-a", b"1"), *request()],
        "unknown pseudo-header": request(first=[(b":x", b"1")]),
        "status in a request": request(first=[(b":status", b"200")]),
        "no method": without(b":method"),
        "no path": without(b":path"),
        "no scheme": without(b":scheme"),
        "no host": without(b":authority"),
    }
    bodies: dict[str, tuple[Headers, bytes, Headers]] = {
        "transfer-encoding": (post((b"transfer-encoding", b"chunked")), chunked, []),
        "transfer-encoding of a list": (post((b"transfer-encoding", b"identity, chunked")), chunked, []),
        "transfer-encoding and length": (
            post((b"transfer-encoding", b"chunked"), (b"content-length", b"5")),
            chunked,
            [],
        ),
        "length below the body's": (post((b"content-length", b"2")), b"{}" + second, []),
        "length above the body's": (post((b"content-length", b"200")), b"{}", []),
        "two lengths": (post((b"content-length", b"2"), (b"content-length", b"0")), b"{}", []),
        "negative length": (post((b"content-length", b"-1")), b"{}", []),
        "signed length": (post((b"content-length", b"+2")), b"{}", []),
        "list of lengths": (post((b"content-length", b"2, 2")), b"{}", []),
        "pseudo-header in the trailers": (post(), b"{}", [(b":path", b"/" + INJECTED.encode())]),
        "transfer-encoding in the trailers": (post(), b"{}", [(b"transfer-encoding", b"chunked")]),
        "CRLF in the trailers": (post(), b"{}", [(b"x-a", b"b\r\n\r\n" + second)]),
    }
    return {key: (value, b"", []) for key, value in headers.items()} | bodies


def ask(port: int, authority: pathlib.Path, name: str, headers: Headers, body: bytes, trailers: Headers) -> list[int]:
    """The statuses of all answers to a request on a connection of its own."""
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        statuses: list[int] = []
        # the edge may close the connection
        with contextlib.suppress(OSError):
            connection.sendall(written(headers, body, trailers))
            _read(connection, statuses)
    return statuses


def written(headers: Headers, body: bytes, trailers: Headers) -> bytes:
    """A connection's bytes with a request on its first stream."""
    # without a table, so that each block stands alone
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    opening = frame.HeadersFrame(1, encoder.encode(headers), flags=["END_HEADERS"])
    frames: list[frame.Frame] = [frame.SettingsFrame(), opening]
    if body:
        frames.append(frame.DataFrame(1, body))
    if trailers:
        frames.append(frame.HeadersFrame(1, encoder.encode(trailers), flags=["END_HEADERS"]))
    frames[-1].flags.add("END_STREAM")
    return PREFACE + b"".join(one.serialize() for one in frames)


def _read(connection: ssl.SSLSocket, statuses: list[int]) -> None:
    """Add the answers' statuses, until the stream has ended and a ping after that is answered."""
    decoder = hpack.Decoder()
    received = bytearray()
    asked = False
    while True:
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3], "big"):
            block = connection.recv(65536)
            if not block:
                return
            received += block
        one, length = frame.Frame.parse_frame_header(memoryview(bytes(received[:9])))
        one.parse_body(memoryview(bytes(received[9 : 9 + length])))
        del received[: 9 + length]
        if isinstance(one, frame.HeadersFrame):
            fields = dict(decoder.decode(one.data, raw=True))
            statuses += [int(fields[b":status"])] if b":status" in fields else []
        if isinstance(one, frame.GoAwayFrame) or (isinstance(one, frame.PingFrame) and "ACK" in one.flags):
            return
        ended = isinstance(one, frame.RstStreamFrame) or (
            isinstance(one, frame.HeadersFrame | frame.DataFrame) and "END_STREAM" in one.flags
        )
        if ended and not asked:
            asked = True
            connection.sendall(frame.PingFrame(0, b"\0" * 8).serialize())
