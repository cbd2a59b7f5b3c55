"""A worker's sessions in a process that a test kills: ``python -m tests.worker.orphans MODE...`` prints the pids."""

from __future__ import annotations

import asyncio
import sys

from common.processes import ProcessGuard
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.tool_session import usable
from tests.support.backends import entry_of, invocation, misbehaving, stdio_tool
from tests.worker.session_desk import SessionDesk

NOWHERE = StoreAddress(url="unix:///nonexistent/redis.sock")


async def main(modes: list[str]) -> None:
    """Open one session per mode, and stay."""
    with ProcessGuard(grace=0.5) as guard:
        desk = SessionDesk(guard, NOWHERE, Keys("test"), [], 1000)
        pids = []
        for number, mode in enumerate(modes):
            name, *arguments = mode.split(",")
            tool = stdio_tool() if name == "echo" else misbehaving(name, *arguments)
            session = desk.take(invocation("echo", client=f"c{number}"), entry_of(tool))
            link = (await usable(session, 20)).link
            assert isinstance(link, StdioLink)
            pids.append(str(link.child.process.pid))
        print("pids", *pids, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
