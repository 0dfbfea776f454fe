"""nginx doesn't buffer server-sent events, while it buffers other responses."""

from __future__ import annotations

import pytest

from conftest import Server

HEADERS = {
    "/events?seconds=0": "no",
    "/events?seconds=0&type=Text/Event-Stream;%20charset=utf-8": "no",
    # the application's own header is kept
    "/events?seconds=0&buffering=yes": "yes",
    "/events?seconds=0&type=text/plain": None,
    "/": None,
}


@pytest.mark.versions
@pytest.mark.parametrize("path", HEADERS)
def test_only_event_streams_disable_nginx_buffering(server: Server, path: str) -> None:
    server.start()
    connection = server.connect()
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    assert response.getheader("X-Accel-Buffering") == HEADERS[path]
    connection.close()
