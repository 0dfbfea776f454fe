"""The application's settings, read from the environment once, at startup."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, le=300)]


class Settings(BaseSettings):
    """`LINKS_…` variables, and those to which platforms give other names."""

    model_config = SettingsConfigDict(
        env_prefix="LINKS_",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        # A rejected DATABASE_URL must not reach the log with its password.
        hide_input_in_errors=True,
    )

    database_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("DATABASE_URL"))
    # no overflow: its connections are closed after use and opened again for the next request, which costs more than it
    # saves under load
    database_pool_size: int = Field(default=3, ge=1, le=100)
    database_max_overflow: int = Field(default=0, ge=0, le=100)
    database_pool_timeout: Seconds = 3
    database_connect_timeout: Seconds = 3
    database_statement_timeout: Seconds = 5

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # systemd sets STATE_DIRECTORY for a unit with StateDirectory=.
    state_directory: Path = Field(
        default=Path(), validation_alias=AliasChoices("LINKS_STATE_DIRECTORY", "STATE_DIRECTORY")
    )

    redis_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL"))
    redis_timeout: Seconds = 0.5
    # Changes that a client may request per minute.
    rate_limit: int | None = Field(default=None, ge=1)

    title_timeout: Seconds = 3
    title_concurrency: int = Field(default=4, ge=1, le=100)
    # Non-public networks whose pages may nevertheless be requested for their titles.
    title_networks: list[IPv4Network | IPv6Network] = []

    # Seconds that a task may take, and that a stopping worker waits for its running tasks.
    job_time_limit: int = Field(default=600, ge=1, le=24 * 3600)
    job_stop_timeout: int = Field(default=60, ge=1, le=24 * 3600)

    ready_timeout: Seconds = 2
    api_token: SecretStr | None = None
    metrics_token: SecretStr | None = None
    demo_endpoints: bool = False
    # OpenTelemetry's own variables, which its SDK reads. Used here only to know whether there is a collector.
    otlp_endpoint: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    release: str | None = Field(default=None, validation_alias=AliasChoices("LINKS_RELEASE", "RELEASE_ID"))

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        """Normalize the schemes that platforms and libraries use for PostgreSQL."""
        if url is None:
            return None
        scheme, separator, rest = url.get_secret_value().partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
            message = "DATABASE_URL must begin with postgresql:// (or postgres://); unset it to use SQLite"
            raise ValueError(message)
        return SecretStr(f"postgresql://{rest}")

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("redis://", "rediss://")):
            message = "REDIS_URL must begin with redis:// (or rediss:// for TLS); unset it to run without Redis"
            raise ValueError(message)
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp(cls, url: SecretStr | None) -> SecretStr | None:
        # otherwise the exporter only logs a warning for each batch of spans
        if url is not None and not url.get_secret_value().startswith(("http://", "https://")):
            message = "OTEL_EXPORTER_OTLP_ENDPOINT must begin with http:// (or https://); unset it to disable traces"
            raise ValueError(message)
        return url

    @model_validator(mode="after")
    def _shared_limit(self) -> Self:
        if self.rate_limit is not None and self.redis_url is None:
            message = "LINKS_RATE_LIMIT needs REDIS_URL, where all workers count requests: set it, or unset the limit"
            raise ValueError(message)
        return self

    @field_validator("state_directory", mode="before")
    @classmethod
    def _first_directory(cls, value: object) -> object:
        """Return the first folder: systemd separates several with colons."""
        return value.split(":")[0] if isinstance(value, str) else value

    @property
    def sqlite_path(self) -> Path:
        """The database file that is used without DATABASE_URL."""
        return self.state_directory / "links.sqlite3"
