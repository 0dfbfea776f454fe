"""Settings from the environment variables that platforms set."""

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from links.main import create_app
from links.request_id import get_logger
from links.settings import Settings


def test_default_is_sqlite_in_working_directory() -> None:
    settings = Settings()
    assert settings.database_url is None
    assert settings.sqlite_path == Path("links.sqlite3")
    assert not settings.demo_endpoints


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_postgresql_schemes_are_accepted(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{scheme}://u:p@db/links?sslmode=require")
    url = Settings().database_url
    assert url is not None
    assert url.get_secret_value() == "postgresql://u:p@db/links?sslmode=require"


@pytest.mark.parametrize(
    ("variable", "url", "scheme"),
    [
        ("DATABASE_URL", "mysql://u:s3cret@db/links", "postgresql://"),
        ("DATABASE_URL", "s3cret", "postgresql://"),
        ("REDIS_URL", "http://x", "redis://"),
        ("REDIS_URL", "localhost:6379", "redis://"),
        ("REDIS_URL", "amqp://u:s3cret@x", "redis://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http://"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "grpc://u:s3cret@x", "http://"),
    ],
)
def test_other_schemes_are_refused_without_showing_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str, scheme: str
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(ValidationError, match=f"must begin with {scheme}") as refused:
        Settings()
    assert "s3cret" not in str(refused.value)


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:s3cret@db/links")
    monkeypatch.setenv("LINKS_API_TOKEN", "s3cret")
    assert "s3cret" not in repr(Settings())


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("LINKS_DATABASE_POOL_SIZE", "")
    assert Settings() == Settings.model_construct()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"STATE_DIRECTORY": "/var/lib/links"}, "/var/lib/links"),
        ({"STATE_DIRECTORY": "/var/lib/links:/var/lib/more"}, "/var/lib/links"),
        ({"STATE_DIRECTORY": "/var/lib/links", "LINKS_STATE_DIRECTORY": "/srv"}, "/srv"),
    ],
)
def test_sqlite_file_is_in_state_directory(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings().state_directory == Path(expected)


@pytest.mark.parametrize("name", ["LINKS_DATABASE_POOL_SIZE", "LINKS_DATABASE_POOL_TIMEOUT", "LINKS_READY_TIMEOUT"])
def test_limit_of_zero_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0")
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(("level", "printed"), [("info", True), ("warning", False)])
def test_level_of_log_lines(monkeypatch: pytest.MonkeyPatch, level: str, *, printed: bool) -> None:
    monkeypatch.setenv("LINKS_LOG_LEVEL", level)
    create_app(Settings())
    assert get_logger("links.api").isEnabledFor(logging.INFO) is printed
