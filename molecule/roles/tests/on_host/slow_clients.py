"""Prints in which order the site ends slow clients: one that doesn't complete its headers, one its body.

The third client's request is complete, and answered after 45 s: before nginx's own time limits, after the site's.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl

NAME = "links.baton.test"
HEADERS = f"Host: {NAME}\r\n"
REQUESTS = {
    "answer": f"GET /late HTTP/1.1\r\n{HEADERS}\r\n",
    "headers": f"GET / HTTP/1.1\r\n{HEADERS}",
    "body": f"POST / HTTP/1.1\r\n{HEADERS}Content-Length: 100\r\n\r\nx",
}

context = ssl.create_default_context(cafile="/etc/baton-test/ca.pem")
clients = selectors.DefaultSelector()
for kind, request in REQUESTS.items():
    client = context.wrap_socket(socket.create_connection(("127.0.0.1", 443), 600), server_hostname=NAME)
    client.sendall(request.encode())
    client.setblocking(False)
    clients.register(client, selectors.EVENT_READ, kind)
ended: list[str] = []
while "answer" not in ended and len(ended) < 2:
    for key, _ in clients.select():
        with contextlib.suppress(ssl.SSLWantReadError):
            with contextlib.suppress(ConnectionError):
                key.fileobj.recv(65536)  # type: ignore[union-attr]
            clients.unregister(key.fileobj)
            ended.append(key.data)
print(*sorted(ended))
