"""A worker's sessions in a process that a test kills: ``python -m tests.worker.orphans MODE...`` prints the pids."""

from __future__ import annotations

import asyncio
import sys

from common.processes import ProcessGuard
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.sessions import Sessions, usable
from tests.support.backends import MAX_BYTES, entry_of, invocation, misbehaving, stdio_tool


async def main(modes: list[str]) -> None:
    """Open one session per mode, and stay."""
    with ProcessGuard(grace=0.5) as guard:
        sessions = Sessions(guard, max_bytes=MAX_BYTES, on_list_changed=lambda _: None)
        pids = []
        for number, mode in enumerate(modes):
            name, *arguments = mode.split(",")
            tool = stdio_tool() if name == "echo" else misbehaving(name, *arguments)
            session = sessions.take(invocation("echo", client=f"c{number}"), entry_of(tool))
            link = (await usable(session, 20)).link
            assert isinstance(link, StdioLink)
            pids.append(str(link.child.process.pid))
        print("pids", *pids, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
