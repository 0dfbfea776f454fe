"""Turns for starting requests: in an overloaded worker, the event loop still iterates often enough to accept
connections and to answer health checks."""

from __future__ import annotations

import asyncio
import collections
import time

SLICE = 0.01  # seconds that requests started in one iteration of the event loop may take
MAX_BATCH = 64  # requests started in one iteration


class Turns:
    """Decides which requests may start. Costs only a look at the clock until an iteration exceeds its slice."""

    def __init__(self) -> None:
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._began: float | None = None  # start of this iteration
        self._batch = 1

    async def wait(self) -> None:
        """Waits for the caller's turn, in the order of the calls."""
        if not self._waiting and not self._is_spent():
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _is_spent(self) -> bool:
        now = time.perf_counter()
        if self._began is None:
            self._began = now
            asyncio.get_running_loop().call_soon(self._next_round)
            return False
        return now - self._began >= SLICE

    def _next_round(self) -> None:
        now = time.perf_counter()
        took, self._began = now - (self._began or now), None
        if not self._waiting:
            self._batch = 1
            return
        self._batch = max(1, self._batch // 2) if took >= SLICE else min(MAX_BATCH, self._batch * 2)
        left = self._batch
        while self._waiting and left:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                left -= 1
        self._began = now
        asyncio.get_running_loop().call_soon(self._next_round)
