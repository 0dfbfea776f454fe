"""Random requests of all kinds that the API describes, and others, by schemathesis."""

import asyncio
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from links.settings import Settings
from tests.conftest import RedisServer, serving

TOKEN = "secret"  # noqa: S105 - of this test
EXAMPLES = 100  # for each operation


@pytest.mark.long
async def test_no_request_is_answered_by_a_server_error(
    settings: Settings, redis_server: RedisServer, tmp_path: Path
) -> None:
    served = settings.model_copy(
        update={"redis_url": SecretStr(redis_server.url), "metrics_token": SecretStr(TOKEN), "api_token": None}
    )
    async with serving(served) as address:
        running = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("schemathesis")), "run", f"http://{address}/api/openapi.json"),
            *("--checks", "not_a_server_error", "--mode", "all", "--max-examples", str(EXAMPLES), "--seed", "1"),
            # one requests other sites' pages, the other never ends
            *("--exclude-path-regex", "/(title|events)$", "--header", f"Authorization: Bearer {TOKEN}", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await running.communicate())[0].decode()
    assert running.returncode == 0, output
    # it has sent requests, not only read the schema
    assert "generated" in output, output
