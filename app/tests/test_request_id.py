"""Request ids in log records."""

import asyncio
import logging

import pytest
from httpx import AsyncClient

from links.request_id import get_logger, request_id


def ids_of(caplog: pytest.LogCaptureFixture) -> list[object]:
    """Return the request ids of the records about created links."""
    return [vars(record)["request_id"] for record in caplog.records if record.message.startswith("Created")]


async def test_records_have_id_of_their_request(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="links")
    new = {"url": "https://example.com"}
    await asyncio.gather(
        *(client.post("/api/links", json=new, headers={"X-Request-ID": name}) for name in ("a", "b", "c"))
    )
    assert sorted(map(str, ids_of(caplog))) == ["a", "b", "c"]
    assert request_id() is None


@pytest.mark.parametrize("strange", ["", "two words", "a" * 129, "<script>", '"quoted"'])
async def test_missing_or_invalid_id_is_replaced(client: AsyncClient, strange: str) -> None:
    seen = (await client.get("/api/whoami", headers={"X-Request-ID": strange})).json()["request_id"]
    assert len(seen) == 32
    assert seen != strange


def test_records_outside_requests_have_no_id(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("links.test").warning("hello")
    assert vars(caplog.records[0])["request_id"] is None


def test_import_configures_no_logging() -> None:
    names = [name for name in logging.Logger.manager.loggerDict if name.split(".")[0] == "links"]
    assert names
    assert not any(logging.getLogger(name).handlers for name in names)
