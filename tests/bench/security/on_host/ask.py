"""Requests pages of an edge at fixed intervals, each on a new connection, and prints the answers as JSON.

Runs on a host of the fleet:

    ask.py ADDRESS NAME SECONDS INTERVAL PATH...

Each answer is a list: the path, the seconds until it was complete, its status (0 without an answer), and whether it had
a Retry-After.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
import threading
import time

TIMEOUT = 30.0


# one for all requests, without authorities: loading these takes longer than an answer
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE


def ask(address: str, name: str, path: str) -> tuple[str, float, int, bool]:
    began = time.monotonic()
    connection = http.client.HTTPConnection(name)
    try:
        plain = socket.create_connection((address, 443), TIMEOUT)
        connection.sock = CONTEXT.wrap_socket(plain, server_hostname=name)
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        status, retry = answer.status, answer.getheader("Retry-After") is not None
    except (OSError, http.client.HTTPException):
        status, retry = 0, False
    finally:
        connection.close()
    return path, time.monotonic() - began, status, retry


def main() -> None:
    address, name, seconds, interval, *paths = sys.argv[1:]
    answers: list[tuple[str, float, int, bool]] = []
    threads = []

    def record(path: str) -> None:
        answers.append(ask(address, name, path))

    began = time.monotonic()
    for number in range(int(float(seconds) / float(interval))):
        time.sleep(max(0.0, began + number * float(interval) - time.monotonic()))
        # a slow answer doesn't delay the next request
        for path in paths:
            thread = threading.Thread(target=record, args=(path,))
            thread.start()
            threads.append(thread)
    for thread in threads:
        thread.join()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
