"""The turns in which requests begin."""

from __future__ import annotations

import asyncio
import time

import pytest

from gunicorn_handover import turns


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_loop_comes_round_between_requests_that_take_the_processor() -> None:
    began: list[int] = []

    async def request(queue: turns.Turns, number: int) -> None:
        await queue.come()
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
        # each takes its slice by itself: hardly ever two of them in a round
        assert max(rounds) <= 2
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_requests_that_take_no_time_begin_at_once() -> None:
    async def main() -> None:
        queue = turns.Turns()
        queue._is_spent = lambda: False  # type: ignore[method-assign]  # however slow this machine is
        coming = queue.come()
        with pytest.raises(StopIteration):  # without a wait
            coming.send(None)

    asyncio.run(main())


def test_who_gives_up_holds_nobody_up() -> None:
    async def main() -> None:
        queue = turns.Turns()

        async def first() -> None:
            await queue.come()
            busy(turns.SLICE)

        tasks = [asyncio.create_task(coming) for coming in (first(), queue.come(), queue.come())]
        await asyncio.sleep(0)
        held, gone, next_ = tasks
        assert held.done()
        assert not next_.done()
        gone.cancel()
        await asyncio.wait_for(next_, 30)
        assert gone.cancelled()
        # and when nobody waits, the next one doesn't either
        await asyncio.wait_for(queue.come(), 30)

    asyncio.run(main())
