"""Database sessions under load."""

import asyncio

import pytest
from sqlalchemy import text

from links.database import Sessions, create_engine
from links.settings import Settings
from tests.conftest import running


async def test_waiting_requests_are_not_overtaken(settings: Settings) -> None:
    """Those that have the other connections may end first, but not most of those that come later."""
    small = settings.model_copy(update={"database_pool_size": 3, "database_pool_timeout": 60})
    engine = create_engine(small)
    sessions = Sessions(engine, small)
    turns: list[int] = []
    order: list[int] = []

    async def ask(number: int) -> None:
        async with sessions.begin() as session:
            turns.append(number)
            # no other request waits in the pool, where later ones could overtake it
            assert len(turns) - len(order) <= 3
            await session.execute(text("SELECT 1"))
            order.append(number)

    # opens the connections
    await asyncio.gather(*(ask(0) for _ in range(3)))
    turns.clear()
    order.clear()
    async with asyncio.TaskGroup() as asking:
        for number in range(500):
            asking.create_task(ask(number))
            await asyncio.sleep(0)
    await engine.dispose()
    assert turns == list(range(500))
    assert max(place - number for place, number in enumerate(order)) < 250, order


async def test_waiting_for_a_connection_is_bounded(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    one = settings.model_copy(update={"database_pool_size": 1, "database_pool_timeout": 0.1})
    async with running(one) as client:
        async with client._transport.app.state.sessions.begin():  # type: ignore[attr-defined]
            answer = await client.get("/api/links")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "no connection was free within 0.1 s" in caplog.text
        assert (await client.get("/api/links")).status_code == 200
