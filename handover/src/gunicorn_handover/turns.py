"""Turns for requests that begin: while more of them wait than the processor can carry, the event loop still comes round
often enough to accept connections and to answer whether the worker is well."""

from __future__ import annotations

import asyncio
import collections
import time

SLICE = 0.01  # seconds that the requests which begin in one round of the event loop may take
MOST = 64  # that begin in one round


class Turns:
    """Who may begin. Costs nothing but a look at the clock until a round has taken its time."""

    def __init__(self) -> None:
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()
        self._began: float | None = None  # of this round
        self._batch = 1

    async def come(self) -> None:
        """Returns when it is the caller's turn, in the order of the calls."""
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
        self._batch = max(1, self._batch // 2) if took >= SLICE else min(MOST, self._batch * 2)
        left = self._batch
        while self._waiting and left:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                left -= 1
        self._began = now
        asyncio.get_running_loop().call_soon(self._next_round)
