"""The same ``echo`` tool through the official SDK's server: what an ordinary Python backend costs."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

from benchmarks.tally import Tally


def serve(transport: str, port: int, tally: Tally) -> None:
    """Serve ``echo`` over ``stdio`` or, on 127.0.0.1 at ``/mcp``, over ``http`` until the process ends."""
    server = MCPServer("benchmark-sdk-backend", log_level="ERROR")

    @server.tool()
    def echo(text: str) -> str:
        """Return the text."""
        tally.bump()
        return text

    if transport == "stdio":
        server.run("stdio")
    else:
        server.run("streamable-http", host="127.0.0.1", port=port)
