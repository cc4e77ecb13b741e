"""What docs/openapi.json promises, held against requests that nobody thought of."""

import asyncio
import sys

import pytest
from edge_fleet import Publisher, settings_of
from http_edge import COMPILED_S, edge_with_client, ready

pytestmark = pytest.mark.anyio
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    "unsupported_method", "negative_data_rejection",
)  # fmt: skip


async def test_no_request_is_answered_in_a_way_that_the_schema_does_not_tell(
    tmp_path, broker, broker_url, micro_parts, eventually
):
    await Publisher(broker, (settings := settings_of(tmp_path, broker_url)).home).release(micro_parts)
    async with edge_with_client(settings) as http:
        await eventually(lambda: ready(http), COMPILED_S)
        command = [
            "-m", "schemathesis.cli", "run", str(http.base_url).rstrip("/") + "/openapi.json",
            "--phases", "fuzzing,stateful", "--max-examples", "15", "--seed", "1", "--checks", ",".join(CHECKS),
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-4000:]
