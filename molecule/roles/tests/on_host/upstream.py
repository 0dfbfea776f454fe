"""An application at 127.0.0.1:8000: it returns the headers of a request to /headers, and answers /late after 45 s."""

from __future__ import annotations

import http.server
import json
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/late":
            time.sleep(45)
        headers = {name.lower(): self.headers.get_all(name) for name in self.headers}
        body = json.dumps(headers).encode() if self.path == "/headers" else b"served"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
