"""Links to stdio backends of a test, and children that are scripted line by line."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from common.domain.tool import StdioTransport, Tool
from common.mcp.revisions import Era
from common.processes import ProcessGuard
from gateway_worker.egress.backend import Backend, connect
from gateway_worker.egress.process import Child
from gateway_worker.egress.stdio import StdioLink
from tests.support.backends import (
    MAX_BYTES,
)

Json = dict[str, Any]


def link_to(tool: Tool, guard: ProcessGuard, *, max_bytes: int = MAX_BYTES) -> StdioLink:
    """A link to a tool's child, not yet open."""
    assert isinstance(tool.transport, StdioTransport)
    return StdioLink(Child(tool.transport, guard, line_limit=max_bytes, limits=tool.limits))


@asynccontextmanager
async def connected(
    tool: Tool, guard: ProcessGuard, *, era: Era = Era.LEGACY, max_bytes: int = MAX_BYTES
) -> AsyncIterator[tuple[Backend, StdioLink]]:
    """A backend that has been spoken to, and its link."""
    link = link_to(tool, guard, max_bytes=max_bytes)
    try:
        yield await connect(link, [era]), link
    finally:
        await link.close()


def call(name: str, token: Any = None, **arguments: Any) -> Json:
    """Params of a ``tools/call``."""
    params: Json = {"name": name, "arguments": arguments}
    return params if token is None else {**params, "_meta": {"progressToken": token}}


def scripted(code: str) -> Tool:
    """A child whose every received message ``m`` goes through some lines of Python; ``say`` answers."""
    script = (
        "import json, os, sys, time\n"
        "def say(**m): os.write(1, json.dumps({'jsonrpc': '2.0', **m}).encode() + b'\\n')\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n" + "\n".join("    " + line for line in code.strip("\n").splitlines())
    )
    return Tool(id="scripted", transport=StdioTransport(command=sys.executable, args=("-c", script)))  # type: ignore[arg-type]
