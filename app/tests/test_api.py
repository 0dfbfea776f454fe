"""The JSON API."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx import AsyncClient
from pydantic import SecretStr

from links import store
from links.settings import Settings
from tests.conftest import running

TARGET = "https://example.com/a?b=c"


async def create(client: AsyncClient, **new: Any) -> dict[str, Any]:
    """Create a link, and return it as in the API's response."""
    answer = await client.post("/api/links", json={"url": TARGET, **new})
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def clicks(client: AsyncClient, slug: str) -> int:
    """Return a link's number of clicks."""
    count: int = (await client.get(f"/api/links/{slug}")).json()["clicks"]
    return count


async def test_created_link_can_be_read(client: AsyncClient) -> None:
    answer = await client.post("/api/links", json={"url": TARGET, "slug": "my-link"})
    assert answer.status_code == 201
    created = answer.json()
    assert created["url"] == TARGET
    assert created["short_url"] == "https://links.test/my-link"
    assert created["clicks"] == 0
    assert created["last_clicked_at"] is None
    assert abs(datetime.fromisoformat(created["created_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (await client.get(answer.headers["location"])).json() == created


async def test_slug_is_generated_if_missing(client: AsyncClient) -> None:
    first, second = await create(client), await create(client)
    assert first["slug"] != second["slug"]
    assert len(first["slug"]) == store.SLUG_LENGTH


async def test_taken_generated_slug_is_retried(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter(["taken", "taken", "taken", "free"])
    monkeypatch.setattr(store, "_draw_slug", lambda: next(draws))
    assert (await create(client))["slug"] == "taken"
    assert (await create(client))["slug"] == "free"


async def test_following_link_redirects_and_counts(client: AsyncClient) -> None:
    await create(client, slug="x")
    answer = await client.get("/x")
    assert answer.status_code == 307
    assert answer.headers["location"] == TARGET
    assert answer.headers["cache-control"] == "no-store"
    stats = (await client.get("/api/links/x")).json()
    assert stats["clicks"] == 1
    assert datetime.fromisoformat(stats["last_clicked_at"]).utcoffset() == timedelta(0)


async def test_concurrent_clicks_are_all_counted(client: AsyncClient) -> None:
    await create(client, slug="busy")
    answers = await asyncio.gather(*(client.get("/busy") for _ in range(40)))
    assert {answer.status_code for answer in answers} == {307}
    assert await clicks(client, "busy") == 40


async def test_head_request_counts_no_click(client: AsyncClient) -> None:
    await create(client, slug="x")
    answer = await client.head("/x")
    assert (answer.status_code, answer.headers["location"]) == (307, TARGET)
    assert await clicks(client, "x") == 0


async def test_taken_slug_is_a_conflict(client: AsyncClient) -> None:
    await create(client, slug="x")
    answer = await client.post("/api/links", json={"url": "https://example.org", "slug": "x"})
    assert answer.status_code == 409
    assert (await client.get("/api/links/x")).json()["url"] == TARGET


async def test_concurrent_requests_for_slug_create_one_link(client: AsyncClient) -> None:
    requests = (client.post("/api/links", json={"url": TARGET, "slug": "x"}) for _ in range(10))
    codes = [answer.status_code for answer in await asyncio.gather(*requests)]
    assert sorted(codes) == [201] + [409] * 9


@pytest.mark.parametrize(("method", "path"), [("GET", "/no"), ("HEAD", "/no"), ("GET", "/api/links/no")])
async def test_unknown_link_is_not_found(client: AsyncClient, method: str, path: str) -> None:
    assert (await client.request(method, path)).status_code == 404


@pytest.mark.parametrize(
    "new",
    [
        {},
        {"url": ""},
        {"url": "example.com"},
        {"url": "ftp://example.com"},
        {"url": "javascript:alert(1)"},
        {"url": "https://"},
        {"url": "https://example.com/" + "a" * 2048},
        {"url": "https://example.com/" + "é" * 1000},
        {"url": TARGET, "slug": ""},
        {"url": TARGET, "slug": "a" * 65},
        {"url": TARGET, "slug": "with space"},
        {"url": TARGET, "slug": "a/b"},
        {"url": TARGET, "slug": "new\n"},
        {"url": TARGET, "slug": "api"},
        {"url": TARGET, "slug": "Healthz"},
        {"url": TARGET, "clicks": 1000},
    ],
    ids=lambda new: str(new)[:50],
)
async def test_invalid_link_is_refused(client: AsyncClient, new: dict[str, str]) -> None:
    assert (await client.post("/api/links", json=new)).status_code == 422
    assert (await client.get("/api/links")).json()["items"] == []


async def test_large_body_is_refused(client: AsyncClient) -> None:
    answer = await client.post("/api/links", json={"url": "https://example.com/" + "a" * 70_000})
    assert answer.status_code == 413


async def test_pages_list_every_link_once_newest_first(client: AsyncClient) -> None:
    for number in range(5):
        await create(client, slug=f"n{number}")
    seen: list[str] = []
    sizes: list[int] = []
    params: dict[str, int] = {"limit": 2}
    while True:
        page = (await client.get("/api/links", params=params)).json()
        seen += [link["slug"] for link in page["items"]]
        sizes.append(len(page["items"]))
        if page["next"] is None:
            break
        params["before"] = page["next"]
        await create(client)
    assert seen == ["n4", "n3", "n2", "n1", "n0"]
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "before=0", "before=x", f"before={2**63}"])
async def test_invalid_page_is_refused(client: AsyncClient, query: str) -> None:
    assert (await client.get(f"/api/links?{query}")).status_code == 422


async def test_deleted_link_is_not_found(client: AsyncClient) -> None:
    await create(client, slug="x")
    assert (await client.delete("/api/links/x")).status_code == 204
    assert (await client.get("/x")).status_code == 404
    assert (await client.delete("/api/links/x")).status_code == 404


async def test_changes_need_the_token_if_set(settings: Settings) -> None:
    guarded = settings.model_copy(update={"api_token": SecretStr("right")})
    right = {"Authorization": "Bearer right"}
    async with running(guarded) as client:
        for wrong in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            answer = await client.post("/api/links", json={"url": TARGET, "slug": "x"}, headers=wrong)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.post("/api/links", json={"url": TARGET, "slug": "x"}, headers=right)).status_code == 201
        assert (await client.get("/x")).status_code == 307
        assert (await client.delete("/api/links/x")).status_code == 401
        assert (await client.delete("/api/links/x", headers=right)).status_code == 204
