"""The traffic of the benchmarks for reloads and deploys."""

from __future__ import annotations

from tests.support.traffic import Load

# `share`: of the whole; `wait`: the time that a slow kind takes by design, which is subtracted from its latency
MIX = (
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
)
KINDS = {
    "get": "GET on keep-alive connections, some of a page that takes 0.5 s",
    "post": "POST of 2 kB on the same connections",
    "fresh": "connect, wait 0.3 s, then send",
    "idle": "a request, 2 s of silence, another request on the same connection",
    "upload": "POST of 50 kB over 0.5 s",
    "sse": "a stream of 10 server-sent events over 1 s",
    "websocket": "WebSockets that echo for 1 s",
    "h2": "GET by HTTP/2",
    "h2post": "POST of 2 kB by HTTP/2",
}


def described(sent: dict[str, int]) -> str:
    """A description of the mix, with the share that each kind had of all requests."""
    total = sum(sent.values())
    return "; ".join(f"{text} ({100 * sent.get(kind, 0) / total:.0f} %)" for kind, text in KINDS.items())
