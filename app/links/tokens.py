"""Bearer tokens for changing links and for reading metrics."""

import secrets
from typing import Annotated

from fastapi import Depends, HTTPException, Request, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from links.settings import Settings

Given = Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]


def require_token(request: Request, given: Given) -> None:
    """Answer 401 to requests without the API token, if one is set."""
    settings: Settings = request.app.state.settings
    if settings.api_token is not None:
        _compare(given, settings.api_token, "change links")


def require_metrics_token(request: Request, given: Given) -> None:
    """Answer 401 to requests without the metrics token: every client of the application can reach `/metrics`."""
    settings: Settings = request.app.state.settings
    _compare(given, settings.metrics_token, "read metrics")


def _compare(given: HTTPAuthorizationCredentials | None, token: SecretStr | None, purpose: str) -> None:
    wanted = token.get_secret_value() if token else ""
    if given is None or not wanted or not secrets.compare_digest(given.credentials.encode(), wanted.encode()):
        raise HTTPException(
            status.HTTP_401_UNAUTHORIZED,
            f"A valid bearer token is needed to {purpose}",
            headers={"WWW-Authenticate": "Bearer"},
        )
