"""What an application's exceptions do to the connection, which a proxy shares between its clients."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

from conftest import Server, wait_for

pytestmark = [pytest.mark.versions, pytest.mark.parametrize("http_parser", ["httptools", "h11"])]


@pytest.mark.parametrize("stream", ["", "&stream=1"])
def test_exception_after_response_affects_no_other_request(server: Server, http_parser: str, stream: str) -> None:
    server.configure(handover_http=http_parser, workers=1)
    server.start()
    connection = server.connect()
    connection.connect()
    sock = connection.sock
    # it fails before the next request, and while the next request runs
    for seconds, follower in (("0", "/"), ("0.3", "/slow?seconds=0.8")):
        identifier = f"fails-after-{seconds}"
        connection.request("GET", f"/fail-after?seconds={seconds}{stream}", headers={"X-Request-ID": identifier})
        response = connection.getresponse()
        assert response.status == (200 if stream else 500)
        assert response.read() or stream
        if seconds == "0":
            wait_for(lambda: "the handler broke after its response" in server.log)
        assert connection.get(follower).status == 200
        assert connection.sock is sock

        def entries(of: str = identifier) -> list[dict[str, Any]]:
            found = [json.loads(line) for line in server.log.splitlines()]
            return [entry for entry in found if entry.get("request_id") == of]

        # a line is written after its response
        wait_for(lambda: len(entries()) >= 2, what="the lines of the error and of the request")
        error, access = entries()
        assert (error["logger"], error["level"]) == ("uvicorn.error", "error")
        assert error["message"] == "Exception in ASGI application"
        assert error["exception"].endswith("RuntimeError: the handler broke after its response")
        assert access["status"] == response.status


@pytest.mark.parametrize("query", ["", "?length=1"])
def test_exception_during_response_closes_connection(server: Server, http_parser: str, query: str) -> None:
    """Nothing else tells the client that the response is incomplete."""
    server.configure(handover_http=http_parser, workers=1)
    server.start()
    connection = server.connect()
    connection.request("GET", f"/fail-amid{query}")
    response = connection.getresponse()
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    wait_for(lambda: "the handler broke amid its response" in server.log)
