"""A link to a misbehaving child in a process of its own: ``python -m tests.chaos.link_process CALLS MODE [OPTION...]``.

It prints one line of JSON: what became of each call, by how much the process grew, for how long its loop stood still.
A last option ``--debug=FILE`` has standard error logged at debug level into a file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from common.domain.errors import GatewayError
from common.logs import configure
from common.mcp.revisions import Era
from common.processes import ProcessGuard
from common.settings import LoggingSettings
from gateway_worker.egress.backend import connect, make_link
from gateway_worker.egress.stdio import StdioLink
from tests.support.aio import until
from tests.support.backends import MAX_BYTES, misbehaving, stdio_tool, text_of
from tests.worker.egress.stdio_links import call


@dataclass(slots=True, kw_only=True)
class Report:
    """What is printed."""

    outcomes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown: int = 0
    longest_stop: float = 0.0
    stderr: list[str] = field(default_factory=list)
    noise: int = 0
    heard: int = 0


def peak() -> int:
    """The most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


async def watch_loop(report: Report) -> None:
    """Note the longest time in which the loop did nothing else."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        report.longest_stop = max(report.longest_stop, time.monotonic() - before - 0.005)


async def one_call(link: StdioLink, text: str, report: Report) -> str:
    """The answer's text, or the error's code."""

    def heard(_method: str, _params: dict[str, Any]) -> None:
        report.heard += 1

    try:
        async with asyncio.timeout(30):
            method = "tools/list" if text == "list" else "tools/call"
            result = await link.request(
                method, {} if text == "list" else call("echo", "t", text=text), on_notification=heard
            )
    except GatewayError as error:
        return str(error.code)
    return "list" if text == "list" else text_of(result)


async def main(calls: int, mode: str, options: list[str]) -> None:
    """Connect, warm up at a well-behaved child, call, report."""
    report = Report()
    with ProcessGuard(grace=0.5) as guard:
        await warm_up(guard)
        link = make_link(misbehaving(mode, *options), guard, max_bytes=MAX_BYTES)
        assert isinstance(link, StdioLink)
        before = peak()
        await connect(link, [Era.LEGACY])
        watching = asyncio.create_task(watch_loop(report))
        begun = time.monotonic()
        for number in range(calls):
            text = "list" if mode == "many_tools" else str(number)
            report.outcomes.append(await one_call(link, text, report))
        await wait_for_torrent(link, mode)
        report.seconds = time.monotonic() - begun
        watching.cancel()
        report.stderr = link.child.stderr_tail()
        report.noise = link.noise
        await link.close()
        report.grown = peak() - before
    print(json.dumps({name: getattr(report, name) for name in Report.__slots__}), flush=True)


async def warm_up(guard: ProcessGuard) -> None:
    """What the first link imports and allocates is not what a child makes us grow by."""
    link = make_link(stdio_tool(), guard, max_bytes=MAX_BYTES)
    backend = await connect(link, [Era.LEGACY])
    for size in (10, 1 << 20):
        await backend.request("tools/call", call("echo", text="x" * size))
    await link.close()


async def wait_for_torrent(link: StdioLink, mode: str) -> None:
    """Until the child has written all that it wants to."""
    if mode == "stderr_torrent":
        await until(
            lambda: "the torrent has ended" in link.child.stderr_tail(),
            timeout=40,
            description="the last line",
        )


if __name__ == "__main__":
    arguments = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING)
    if arguments[-1].startswith("--debug="):
        configure(LoggingSettings(level="debug", format="json"), process="link", file=arguments.pop()[8:])
    asyncio.run(main(int(arguments[0]), arguments[1], arguments[2:]))
