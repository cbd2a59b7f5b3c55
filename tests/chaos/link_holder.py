"""A process that holds links until it is killed: ``python -m tests.chaos.link_holder COUNT SERVER [OPTION...]``.

It prints ``held`` with the process ids of its two reapers and of its children.
"""

from __future__ import annotations

import asyncio
import sys

from common.mcp.revisions import Era
from common.processes import ProcessGuard
from gateway_worker.egress.backend import connect, make_link
from gateway_worker.egress.stdio import StdioLink
from tests.support.backends import MAX_BYTES, stdio_tool


async def main(count: int, server: str, options: list[str]) -> None:
    """Connect, say so, stay."""
    with ProcessGuard(grace=1.0) as guard:
        links = [make_link(stdio_tool(server, *options), guard, max_bytes=MAX_BYTES) for _ in range(count)]
        await asyncio.gather(*(connect(link, [Era.LEGACY]) for link in links))
        pids = [link.child.process.pid for link in links if isinstance(link, StdioLink)]
        print("held", guard.reaper_pid, guard.second_reaper_pid, *pids, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
