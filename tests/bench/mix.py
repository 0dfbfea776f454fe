"""The traffic of the benchmarks for reloads and deploys."""

from __future__ import annotations

import dataclasses

from tests.support.traffic import Load


@dataclasses.dataclass(frozen=True)
class Mix:
    """The requests to an application, and what those of each kind are."""

    loads: tuple[Load, ...]
    kinds: dict[str, str]

    def described(self, sent: dict[str, int]) -> str:
        """A description of the mix, with the share that each kind had of all requests."""
        total = sum(sent.values())
        return "; ".join(f"{text} ({100 * sent.get(kind, 0) / total:.0f} %)" for kind, text in self.kinds.items())


# `share`: of the whole; `wait`: the time that a slow kind takes by design, which is subtracted from its latency
BENCH = Mix(
    (
        Load("get", share=26),
        Load("post", "/echo", share=10, size=2000),
        Load("get", "/slow?seconds=0.5", share=2, wait=0.5),
        Load("fresh", share=2, wait=0.3),
        Load("idle", share=2, wait=2.0),
        Load("upload", "/echo", share=1, size=50_000, wait=0.5),
        Load("sse", "/events?count=10", share=1),
        Load("websocket", "/ws", share=1, wait=1.0),
        Load("h2", share=4),
        Load("h2post", "/echo", share=1, size=2000),
    ),
    {
        "get": "GET on keep-alive connections, some of a page that takes 0.5 s",
        "post": "POST of 2 kB on the same connections",
        "fresh": "connect, wait 0.3 s, then send",
        "idle": "a request, 2 s of silence, another request on the same connection",
        "upload": "POST of 50 kB over 0.5 s",
        "sse": "a stream of 10 server-sent events over 1 s",
        "websocket": "WebSockets that echo for 1 s",
        "h2": "GET by HTTP/2",
        "h2post": "POST of 2 kB by HTTP/2",
    },
)

# links that exist in the reference application
SLUGS = tuple(f"bench-{number}" for number in range(10))
NEW_LINK = '{"url":"https://example.com/"}'
LINKS = Mix(
    (
        *(Load("get", f"/{slug}", share=2) for slug in SLUGS),
        Load("get", f"/api/links/{SLUGS[0]}", share=6),
        Load("get", share=3),
        Load("get", "/static/style.css", share=2),
        Load("post", "/api/links", share=4, json=NEW_LINK),
        Load("fresh", f"/{SLUGS[1]}", share=2, wait=0.3),
        Load("idle", f"/{SLUGS[2]}", share=2, wait=2.0),
        Load("feed", "/api/clicks/live", share=1, wait=1.0, expect='"clicks"'),
        Load("h2", share=2),
        Load("h2post", "/api/links", share=1, json=NEW_LINK),
    ),
    {
        "get": (
            "GET on keep-alive connections: 20 of 31 follow a link (an `UPDATE` in PostgreSQL, an event in Redis), the "
            "others read a link, the page with the newest links, and a static file"
        ),
        "post": "POST on the same connections, which creates a link (an `INSERT`)",
        "fresh": "connect, wait 0.3 s, then follow a link",
        "idle": "follow a link twice on one connection, with 2 s of silence between",
        "feed": "WebSockets that receive the clicks from Redis for 1 s",
        "h2": "GET of the page by HTTP/2",
        "h2post": "POST of a link by HTTP/2",
    },
)
