"""Turns for starting requests."""

from __future__ import annotations

import asyncio
import time

import pytest

from gunicorn_handover import turns


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_loop_iterates_between_cpu_bound_requests() -> None:
    began: list[int] = []

    async def request(queue: turns.Turns, number: int) -> None:
        await queue.wait()
        began.append(number)
        busy(turns.SLICE)

    async def main() -> None:
        queue = turns.Turns()
        tasks = [asyncio.create_task(request(queue, number)) for number in range(30)]
        rounds = []
        while not all(task.done() for task in tasks):
            before = len(began)
            await asyncio.sleep(0)
            rounds.append(len(began) - before)
        assert began == list(range(30))
        # each request uses up its slice: hardly ever do two start in one iteration
        assert max(rounds) <= 2
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_quick_requests_start_immediately() -> None:
    async def main() -> None:
        queue = turns.Turns()
        queue._is_spent = lambda: False  # type: ignore[method-assign]  # even on a slow machine
        coming = queue.wait()
        with pytest.raises(StopIteration):  # it returned without waiting
            coming.send(None)

    asyncio.run(main())


def test_cancelled_request_does_not_block_queue() -> None:
    async def main() -> None:
        queue = turns.Turns()

        async def first() -> None:
            await queue.wait()
            busy(turns.SLICE)

        tasks = [asyncio.create_task(coming) for coming in (first(), queue.wait(), queue.wait())]
        await asyncio.sleep(0)
        held, gone, next_ = tasks
        assert held.done()
        assert not next_.done()
        gone.cancel()
        await asyncio.wait_for(next_, 30)
        assert gone.cancelled()
        # with an empty queue, the next request doesn't wait either
        await asyncio.wait_for(queue.wait(), 30)

    asyncio.run(main())
