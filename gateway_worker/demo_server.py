"""The built-in demo tool: a small MCP server on the official SDK, over stdio or Streamable HTTP.

``python -m gateway_worker.demo_server`` speaks on its standard streams, ``--port N`` over HTTP on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
from datetime import UTC, datetime

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("canalgate-demo", instructions="A few harmless tools to try the gateway with.")


@server.tool()
def echo(text: str) -> str:
    """Give the text back."""
    return text


@server.tool()
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


@server.tool()
def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Count from 1 up to ``to`` (at most 20), a step every 0.1 s, with progress."""
    steps = max(0, min(to, 20))
    for step in range(1, steps + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(step, steps, f"{step} of {steps}")
    return f"counted to {steps}"


def main() -> None:
    """Serve until the input ends, or until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, help="serve Streamable HTTP on 127.0.0.1 at this port")
    port = parser.parse_args().port
    if port is None:
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port)


if __name__ == "__main__":
    main()
