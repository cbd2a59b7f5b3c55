"""``python -m benchmarks.many_children [COUNT]``: what live stdio children cost the process that holds them.

COUNT (100) children are started at once, as sessions are, called, and closed at once. Beside it: how long one start
keeps the loop, with and without limits; what a look at the process table takes; and what the two reapers weigh. The
children are Python processes, so most of the time for starts and ends is theirs.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import psutil
import structlog

from common.domain.ids import ToolId
from common.domain.rules import ProcessLimits
from common.domain.tool import StdioTransport, Tool
from common.mcp.revisions import Era
from common.processes import ProcessGuard, family
from gateway_worker.egress.backend import Backend, connect, make_link
from gateway_worker.egress.process import Child
from gateway_worker.egress.stdio import StdioLink

MAX_BYTES = 8 << 20
BACKEND = Path(__file__).with_name("backend.py")
CALL = {"name": "echo", "arguments": {"text": "x"}}
SPAWNS = 50
LIMITS = ProcessLimits(open_files=256, file_bytes=1 << 30)
MIB = 1 << 20


class Stops:
    """The longest time in which the loop did nothing else, since the last look."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._task = asyncio.create_task(self._watch())

    def take(self) -> float:
        """Milliseconds."""
        found, self._longest = self._longest, 0.0
        return found * 1000

    def close(self) -> None:
        """Watch no more."""
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            self._longest = max(self._longest, time.perf_counter() - before - 0.002)


def show(what: str, value: float, unit: str) -> None:
    """Print a figure."""
    print(f"{what:<52} {value:>9.2f} {unit}")


async def timed(work: Awaitable[object]) -> float:
    """Seconds that something takes."""
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


async def live_children(count: int, guard: ProcessGuard) -> None:
    """Start, weigh, call and close them."""
    us, stops = psutil.Process(), Stops()
    transport = StdioTransport(command=sys.executable, args=(str(BACKEND), "stdio"))
    tool = Tool(id=ToolId("bench"), transport=transport)
    links = [make_link(tool, guard, max_bytes=MAX_BYTES) for _ in range(count)]
    rss, cpu = us.memory_info().rss, us.cpu_times()
    backends: list[Backend] = []

    async def start_all() -> None:
        backends.extend(await asyncio.gather(*(connect(link, [Era.LEGACY]) for link in links)))

    show(f"{count} children started at once", await timed(start_all()), "s")
    show("  longest stop of the loop meanwhile", stops.take(), "ms")
    show("  CPU of this process for each", (us.cpu_times().user - cpu.user) * 1000 / count, "ms user")
    show("  memory of this process for each", (us.memory_info().rss - rss) / count / 1024, "KiB")
    show("  threads of this process", threading.active_count(), "")
    show("  descriptors for each", (us.num_fds() - 10) / count, "")
    pids = [link.child.process.pid for link in links if isinstance(link, StdioLink)]
    show("  memory of a child", median(psutil.Process(pid).memory_info().rss for pid in pids) / MIB, "MiB")
    calls = timed(asyncio.gather(*(backend.request("tools/call", CALL) for backend in backends)))
    show("one call to each, all at once", await calls * 1000, "ms")
    stops.take()
    show("all closed at once", await timed(asyncio.gather(*(link.close() for link in links))), "s")
    show("  longest stop of the loop meanwhile", stops.take(), "ms")
    stops.close()


async def spawn_cost(guard: ProcessGuard, limits: ProcessLimits) -> tuple[float, float]:
    """Milliseconds until a child is started, and until it has answered and is gone."""
    transport = StdioTransport(command=shutil.which("cat") or "cat")
    started: list[float] = []
    whole: list[float] = []
    for _ in range(SPAWNS):
        child = Child(transport, guard, line_limit=MAX_BYTES, limits=limits)
        begun = time.perf_counter()
        await child.start()
        started.append(time.perf_counter() - begun)
        child.stdin.write(b"x\n")
        await child.stdout.readline()
        whole.append(time.perf_counter() - begun)
        await child.stop()
    return median(started) * 1000, median(whole) * 1000


def look_cost(look: Callable[[], list[family.Process]]) -> None:
    """What finding a child's family takes."""
    begun = time.perf_counter()
    found = [len(look()) for _ in range(20)]
    show(f"a look at {found[-1]} processes", (time.perf_counter() - begun) * 50, "ms")


async def measure(count: int) -> None:
    """All of it."""
    with ProcessGuard() as guard:
        for name, limits in (("without limits", ProcessLimits()), ("with limits", LIMITS)):
            started, answered = await spawn_cost(guard, limits)
            show(f"one start, {name}", started, "ms")
            show("  until it has answered", answered, "ms")
        for role, pid in (("first", guard.reaper_pid), ("second", guard.second_reaper_pid)):
            show(f"the {role} reaper's own memory", psutil.Process(pid).memory_full_info().uss / MIB, "MiB")
        await live_children(count, guard)
        look_cost(lambda: family.processes(marks_since=0))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    asyncio.run(measure(int(sys.argv[1]) if sys.argv[1:] else 100))
