"""Starts of children in a process that runs out of something: ``python -m tests.chaos.exhausted files|processes``.

It prints one line of JSON: what each start came to under the lowered limit, what one came to afterwards, and what was
left over.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from dataclasses import dataclass, field

from common.domain.tool import StdioTransport
from common.processes import ProcessGuard
from gateway_worker.egress.link import LinkLost
from gateway_worker.egress.process import Child
from tests.support.aio import until
from tests.support.backends import open_files

NOBODY = 65534
CAT = StdioTransport(command="/bin/cat", cwd="/")


@dataclass(slots=True)
class Report:
    """What is printed."""

    under: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    steady: bool = False
    after: str = ""
    files_left: int = 0
    children_left: int = 0


async def start(guard: ProcessGuard, report: Report) -> str:
    """Start a child, hear it, stop it: ``works``, or ``refused`` if the start failed without having sent anything."""
    child = Child(CAT, guard, line_limit=1 << 20)
    try:
        await child.start()
    except LinkLost as error:
        report.messages.append(error.message)
        return "refused" if error.unsent else "sent?"
    found = await heard(child)
    await child.stop()
    return found


async def heard(child: Child) -> str:
    """Whether it answers."""
    child.stdin.write(b"hello\n")
    async with asyncio.timeout(5):
        return "works" if await child.stdout.readline() == b"hello\n" else "silent"


def children() -> int:
    """Processes below this one, zombies as well."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return len(file.read().split())


async def short_of_files(guard: ProcessGuard, report: Report) -> None:
    """With every number of free descriptors from none to enough, so that each step of a start fails once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for free in range(16):
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() - 1 + free, hard))
        report.under.append(await start(guard, report))
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def short_of_processes(guard: ProcessGuard, report: Report) -> None:
    """Nobody can fork or start a thread. The limit does not bind root, so we are somebody else for a while."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    report.under += [await start(guard, report) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    if root:
        os.setresuid(0, 0, 0)


async def main(what: str) -> None:
    """One child lives through it all."""
    report = Report()
    with ProcessGuard(grace=0.5) as guard:
        report.after = await start(guard, report)
        steady = Child(CAT, guard, line_limit=1 << 20)
        await steady.start()
        files, living = open_files(), children()
        await (short_of_files if what == "files" else short_of_processes)(guard, report)
        report.steady = await heard(steady) == "works"
        report.after = await start(guard, report)
        await until(lambda: open_files() <= files, description="descriptors back", shown=open_files)
        report.files_left, report.children_left = open_files() - files, children() - living
        await steady.stop()
    print(json.dumps({name: getattr(report, name) for name in Report.__slots__}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
