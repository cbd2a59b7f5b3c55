"""A directory of a running gateway in which somebody writes an mcp.json."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.support.mcp import modern
from tests.support.servers.gateway import running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_a_server_comes_is_called_and_goes(tmp_path: Path) -> None:
    """Without a restart; a command that nobody allowed does not come."""
    command, *args = server_command("echo")
    place = tmp_path / "servers"
    place.mkdir()
    settings = {
        "sources": {"listed": [{"name": "team", "type": "file", "path": str(place), "interval": 0.2}]},
        "egress": {"allowed_commands": [" ".join([command, *args])]},
    }
    with running_gateway({}, directory=tmp_path / "g", settings=settings) as gateway:
        servers = {"new": {"command": command, "args": args}, "bad": {"command": "sh", "args": ["-c", "id"]}}
        (place / "mcp.json").write_bytes(orjson.dumps({"mcpServers": servers}))

        def names() -> set[str]:
            found = modern(f"{gateway.url}/mcp").post("tools/list").json()
            return {tool["name"] for tool in found.get("result", {}).get("tools", [])}

        wait_until(lambda: "new__echo" in names(), timeout=30, description="the tool is listed")
        assert not any(name.startswith("bad") for name in names())
        assert modern(gateway.tool_url("new")).text("echo", {"text": "hello"}) == "hello"
        (place / "mcp.json").write_bytes(orjson.dumps({"mcpServers": {}}))
        wait_until(lambda: not names(), timeout=30, description="the tool is gone")
