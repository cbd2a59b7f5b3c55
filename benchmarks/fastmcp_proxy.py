"""A FastMCP proxy in front of one backend. Runs under the peer's own interpreter, which has FastMCP."""

from __future__ import annotations

import argparse
import asyncio
import json

from fastmcp import Client  # type: ignore[import-not-found,unused-ignore]
from fastmcp.server import create_proxy  # type: ignore[import-not-found,unused-ignore]


async def serve(target: object, port: int, *, held: bool) -> None:
    """Serve the proxy of ``target`` on 127.0.0.1, ``held``: with one client connected for all callers."""
    options = {"host": "127.0.0.1", "port": port, "log_level": "warning", "show_banner": False}
    if not held:
        await create_proxy(target).run_http_async(**options)
        return
    async with Client(target) as client:
        await create_proxy(client).run_http_async(**options)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--url")
    parser.add_argument("--command", type=json.loads)  # noqa: TID251
    parser.add_argument("--held", action="store_true")
    options = parser.parse_args()
    target: object = options.url
    if options.command:
        program, *args = options.command
        target = {"mcpServers": {"backend": {"command": program, "args": args}}}
    asyncio.run(serve(target, options.port, held=options.held))


if __name__ == "__main__":
    main()
