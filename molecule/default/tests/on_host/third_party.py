"""A site on an app server that hangs, fails or answers, according to a file.

    third_party.py FOLDER PORT

FOLDER/mode has `hang`, `fail` or `answer`; FOLDER/asked gets the number of requests.
"""

from __future__ import annotations

import asyncio
import pathlib
import sys

folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
BODY = b"<title>A third party</title>"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
asked = 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    global asked
    await reader.readuntil(b"\r\n\r\n")
    asked += 1
    (folder / "asked.next").write_text(str(asked))
    (folder / "asked.next").rename(folder / "asked")
    while (mode := (folder / "mode").read_text().strip()) == "hang":
        await asyncio.sleep(0.1)
    if mode == "answer":
        writer.write(ANSWER)
    writer.close()


async def main() -> None:
    """Serve until it is stopped."""
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
