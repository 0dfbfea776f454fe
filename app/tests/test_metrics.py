"""Prometheus metrics: counters by route, readable only with the token."""

from pathlib import Path

import pytest
from httpx import ASGITransport, AsyncClient
from prometheus_client import REGISTRY, Counter, values
from pydantic import SecretStr

from links.main import create_app
from links.settings import Settings
from tests.conftest import running

TOKEN = {"Authorization": "Bearer m3trics"}


@pytest.fixture
def measured(settings: Settings) -> Settings:
    """Settings with a metrics token."""
    return settings.model_copy(update={"metrics_token": SecretStr("m3trics")})


def counted(method: str, route: str, status: int) -> float:
    """Return the number of such requests so far."""
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("links_requests_total", labels) or 0


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/healthz", "/healthz", 200),
        ("GET", "/api/links/nothing-like-it", "/api/links/{slug}", 404),
        ("GET", "/nothing-like-it", "/{slug}", 404),
        ("POST", "/api/links", "/api/links", 422),
        ("GET", "/no/such/page", "none", 404),
        ("BREW", "/healthz", "/healthz", 405),
    ],
)
async def test_request_is_counted_by_route(
    client: AsyncClient, method: str, path: str, route: str, status: int
) -> None:
    name = method if method != "BREW" else "other"
    before = counted(name, route, status)
    assert (await client.request(method, path)).status_code == status
    assert counted(name, route, status) == before + 1


async def test_exception_is_counted_as_500(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/api/broken")
    async def broken() -> None:
        raise RuntimeError

    # before the route that matches every path with one segment
    app.router.routes.insert(0, app.router.routes.pop())
    before = counted("GET", "/api/broken", 500)
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="https://links.test") as client:
        assert (await client.get("/api/broken")).status_code == 500
    assert counted("GET", "/api/broken", 500) == before + 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic m3trics"}])
async def test_metrics_need_the_token(measured: Settings, headers: dict[str, str]) -> None:
    async with running(measured) as client:
        answer = await client.get("/metrics", headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert "links_requests" not in answer.text


async def test_metrics_do_not_exist_without_token_setting(client: AsyncClient) -> None:
    assert (await client.get("/metrics", headers=TOKEN)).status_code == 404


async def test_metrics_are_readable_with_token(measured: Settings) -> None:
    async with running(measured) as client:
        await client.get("/healthz")
        answer = await client.get("/metrics", headers=TOKEN)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert 'links_requests_total{method="GET",route="/healthz",status="200"}' in answer.text
    assert 'links_response_seconds_count{route="/healthz"}' in answer.text


async def test_metrics_cover_all_workers(measured: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        for worker in ("worker0", "worker1"):
            patch.setattr(values, "ValueClass", values.MultiProcessValue(lambda worker=worker: worker))  # type: ignore[no-untyped-call]
            Counter("of_all_workers", "A test's", registry=None).inc(2)
        async with running(measured) as client:
            answer = await client.get("/metrics", headers=TOKEN)
        assert "of_all_workers_total 4.0" in answer.text
