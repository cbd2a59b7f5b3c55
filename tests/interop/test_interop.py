"""Real clients of both eras reach real backends of both eras through one gateway."""

from __future__ import annotations

import orjson
import pytest

from tests.interop.backends import Backend, Json
from tests.interop.clients import CLIENTS
from tests.interop.install import InteropPaths
from tests.support.servers.gateway import RunningGateway

# The first test pays for npm, the gateway and the start of every backend.
pytestmark = [pytest.mark.interop, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("tool_id", ["everything", "filesystem", "memory", "time", "git"])
@pytest.mark.parametrize("client", CLIENTS)
def test_client_reaches_backend(
    client: str,
    tool_id: str,
    paths: InteropPaths,
    gateway: RunningGateway,
    backends: dict[str, Backend],
    own_lists: dict[str, list[Json]],
) -> None:
    """The client gets its revision, the backend's complete list unchanged, and the answers of real calls."""
    play, revision = CLIENTS[client]
    calls = backends[tool_id].calls(client)

    gateway.process.require_alive()
    played = play(paths, gateway.tool_url(tool_id), [call.as_json() for call in calls])

    assert played["version"] == revision
    assert sorted(played["tools"], key=lambda tool: str(tool["name"])) == own_lists[tool_id]
    for call, answer in zip(calls, played["results"], strict=True):
        assert "error" not in answer, answer
        assert not answer["result"].get("isError"), answer
        texts = "".join(block.get("text", "") for block in answer["result"]["content"])
        assert call.expected in texts, orjson.dumps(answer).decode()


@pytest.mark.parametrize("client", ["python-auto", "ts-v1"])
def test_aggregate_lists_all_backends(
    client: str, paths: InteropPaths, gateway: RunningGateway, own_lists: dict[str, list[Json]]
) -> None:
    """``/mcp`` lists the tools of all backends under prefixed names and routes a call by its prefix."""
    play, _ = CLIENTS[client]
    call = {"tool": "everything__echo", "arguments": {"message": "all"}}

    gateway.process.require_alive()
    played = play(paths, f"{gateway.url}/mcp", [call])

    expected = {
        f"{tool_id}__{tool['name']}": tool["inputSchema"]
        for tool_id, tools in own_lists.items()
        for tool in tools
    }
    assert {tool["name"]: tool["inputSchema"] for tool in played["tools"]} == expected
    assert played["results"][0]["result"]["content"] == [{"type": "text", "text": "Echo: all"}]
