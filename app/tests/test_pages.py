"""The page at /."""

import pytest
from httpx import AsyncClient
from pydantic import SecretStr

from links.settings import Settings
from tests.conftest import running


async def test_page_lists_links_with_strict_policy(client: AsyncClient) -> None:
    await client.post("/api/links", json={"url": "https://example.com/target", "slug": "shown"})
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "https://example.com/target" in page.text
    assert 'href="https://links.test/shown"' in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in page.text
    assert "style=" not in page.text


@pytest.mark.parametrize(
    ("name", "kind"), [("style.css", "text/css"), ("live.js", "text/javascript"), ("icon.svg", "image/svg+xml")]
)
async def test_static_files_are_revalidated(client: AsyncClient, name: str, kind: str) -> None:
    file = await client.get(f"/static/{name}")
    assert (file.status_code, file.headers["content-type"].split(";")[0]) == (200, kind)
    same = await client.get(f"/static/{name}", headers={"If-None-Match": file.headers["etag"]})
    assert same.status_code == 304
    assert {file.headers["cache-control"], same.headers["cache-control"]} == {"no-cache"}


async def test_favicon_is_served(client: AsyncClient) -> None:
    icon = await client.get("/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")


async def test_form_creates_link_and_redirects(client: AsyncClient) -> None:
    sent = await client.post("/", data={"url": " https://example.com/a ", "slug": ""})
    assert sent.status_code == 303
    slug = (await client.get("/api/links")).json()["items"][0]["slug"]
    assert sent.headers["location"] == f"https://links.test/?created={slug}"
    assert f'Your link: <a href="https://links.test/{slug}"' in (await client.get(sent.headers["location"])).text


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        ({}, 422, "Address:"),
        ({"url": "javascript:alert(1)"}, 422, "Address: URL scheme"),
        ({"url": "https://example.com", "slug": "no spaces"}, 422, "Slug: String"),
        ({"url": "https://example.com", "slug": "api"}, 422, "Slug: this slug is reserved"),
        ({"url": "https://example.com", "slug": "taken"}, 409, "taken"),
    ],
)
async def test_refused_form_shows_reason_and_keeps_input(
    client: AsyncClient, form: dict[str, str], status: int, message: str
) -> None:
    await client.post("/api/links", json={"url": "https://example.org", "slug": "taken"})
    answer = await client.post("/", data=form)
    assert answer.status_code == status
    assert message in answer.text
    for typed in form.values():
        assert f'value="{typed}"' in answer.text


async def test_page_escapes_input(client: AsyncClient) -> None:
    attack = '"><script>alert(1)</script>'
    refused = await client.post("/", data={"url": attack, "slug": attack})
    assert "<script>" not in refused.text
    await client.post("/api/links", json={"url": f"https://example.com/?q={attack}", "slug": "x"})
    assert "<script>" not in (await client.get("/", params={"created": attack})).text


async def test_page_has_no_form_if_token_is_set(settings: Settings) -> None:
    async with running(settings.model_copy(update={"api_token": SecretStr("x")})) as client:
        assert "<form" not in (await client.get("/")).text
        answer = await client.post("/", data={"url": "https://example.com"})
        assert answer.status_code == 403
        assert (await client.get("/api/links")).json()["items"] == []
