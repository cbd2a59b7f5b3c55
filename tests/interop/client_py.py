"""The Python SDK as a client: ``python -m tests.interop.client_py URL '[{"tool": "echo"}]' MODE``.

``MODE`` is ``auto``, ``legacy`` or ``2026-07-28``. Prints one line, ``{"version", "tools", "results"}``, as
the TypeScript clients beside it do.
"""

from __future__ import annotations

import sys
from typing import Any, Literal, cast, get_args

import anyio
import orjson
from mcp import Client, MCPError, StdioServerParameters

Mode = Literal["auto", "legacy", "2026-07-28"]
Json = dict[str, Any]


async def play(target: str | StdioServerParameters, calls: list[Json], mode: Mode) -> Json:
    """Connect, list all tools, make the calls; return what the TypeScript clients print."""
    async with Client(target, mode=mode, cache=None, read_timeout_seconds=60.0) as client:
        tools = await list_all(client)
        results = [await call_one(client, call) for call in calls]
        return {"version": client.protocol_version, "tools": tools, "results": results}


async def list_all(client: Client) -> list[Json]:
    """Return name and input schema of every tool, over all pages."""
    tools: list[Json] = []
    cursor: str | None = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += [{"name": tool.name, "inputSchema": tool.input_schema} for tool in page.tools]
        cursor = page.next_cursor
        if cursor is None:
            return tools


async def call_one(client: Client, call: Json) -> Json:
    """Return ``{"tool", "result"}`` or, for a JSON-RPC error, ``{"tool", "error"}``."""
    try:
        result = await client.call_tool(call["tool"], call.get("arguments") or {})
    except MCPError as error:
        return {"tool": call["tool"], "error": {"code": error.code, "message": error.message}}
    return {"tool": call["tool"], "result": result.model_dump(by_alias=True, mode="json", exclude_none=True)}


def main() -> None:
    """Parse the command line, play, print."""
    url, calls, mode = sys.argv[1:]
    if mode not in get_args(Mode):
        sys.exit(f"MODE is one of {', '.join(get_args(Mode))}, not {mode!r}")
    played = anyio.run(play, url, orjson.loads(calls), cast("Mode", mode))
    print(orjson.dumps(played).decode())


if __name__ == "__main__":
    main()
