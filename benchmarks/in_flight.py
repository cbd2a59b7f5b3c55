"""``python -m benchmarks.in_flight``: a thousand calls under way at once, through one web and one worker process.

Every call takes one second at the backend. Twice: *steady*, with the callers spread over that second, so that as many
calls begin as end; and *burst*, where all callers begin in the same moment and call once. Memory is that of web and
worker at its highest, less what both had before the callers came.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.desk import Transport
from benchmarks.figures import Window, percentile, rounded
from benchmarks.goals import Goal, Row
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.parts import PARTS_OF_A_CALL
from benchmarks.processes import free_port
from benchmarks.script import Bench, Options, Outcome, Script, main
from benchmarks.stack import Stack, endpoint, stdio_tool
from benchmarks.tally import total
from benchmarks.wire import Era

CALLS, SMOKE_CALLS = 1000, 50
CALL_SECONDS = 1.0
GOAL_P99, GOAL_KIB = 1.5, 64
LEAST_PEAK = 0.9
"""So great a part of the callers must have been at the backend at once, or it was not that many in flight."""
_WARM_CALLERS = 16
_LOOK = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One way to bring that many calls under way."""

    name: str
    ramp: float
    seconds: float


class MemoryWatch:
    """The greatest memory of web and worker that was seen."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.peak = 0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look again and again while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def _run(self) -> None:
        while True:
            # In a thread: to add up a process's pages takes milliseconds, in which the client must not stand still.
            self.peak = max(self.peak, await asyncio.to_thread(self._stack.memory))
            await asyncio.sleep(_LOOK)


def start(bench: Bench, transport: Transport, course: Course) -> Stack:
    """Start one web and one worker process with one tool."""
    desk = bench.desk(f"{transport}-{course.name}")
    tool: dict[str, Any] = (
        stdio_tool(desk) if transport is Transport.STDIO else {"url": desk.start_http_backend(free_port())}
    )
    stack = Stack(desk, {"slow": tool})
    stack.start_worker()
    stack.start_web()
    stack.wait_discovered()
    return stack


def courses(options: Options) -> list[Course]:
    """Return what is measured at each transport."""
    # A caller's last call begins before the time is up: a burst of one call each ends right after it began.
    return [
        Course(name="steady", ramp=CALL_SECONDS, seconds=CALL_SECONDS + options.seconds),
        Course(name="burst", ramp=0.0, seconds=CALL_SECONDS / 2),
    ]


async def measure_course(
    stack: Stack, transport: Transport, course: Course, calls: int
) -> tuple[Row, Counter[str]]:
    """Measure one row."""
    target = endpoint(stack.port, "slow", arguments={"wait": CALL_SECONDS})
    load = HttpLoad(target, era=Era.LEGACY, mode=SessionMode.SHARED, ramp=course.ramp)
    await _warm_up(stack)
    idle = stack.memory()
    tally = stack.desk.folder / transport
    before = total(tally)
    cpu = stack.desk.cpu_by_part()
    watch = MemoryWatch(stack)
    async with load.open(calls) as runner, watch.watching():
        window = await runner.run(course.seconds)
    used = stack.desk.cpu_by_part()
    after = total(tally)
    errors = _errors(window, after.calls - before.calls, after.peak, calls)
    row = {
        "backend": str(transport),
        "course": course.name,
        "in_flight": calls,
        "peak": after.peak,
        "calls": window.calls,
        "answered": len(window.latencies),
        "rate": rounded(window.rps),
        "p50_s": rounded(percentile(window.latencies, 50)),
        "p99_s": rounded(percentile(window.latencies, 99)),
        "cpu_us": rounded(sum(used[it] - cpu[it] for it in PARTS_OF_A_CALL) / max(window.calls, 1) * 1e6),
        "idle_mib": rounded(idle / 2**20),
        "peak_mib": rounded(watch.peak / 2**20),
        "kib_a_call": rounded((watch.peak - idle) / calls / 1024),
    }
    return row, Counter({f"{transport}, {course.name}: {kind}": count for kind, count in errors.items()})


async def _warm_up(stack: Stack) -> None:
    """Let everything be loaded that a call needs, so that it is not taken for the memory of calls."""
    load = HttpLoad(endpoint(stack.port, "slow"), era=Era.LEGACY, mode=SessionMode.SHARED)
    async with load.open(_WARM_CALLERS) as runner:
        await runner.run(1.0)
    await asyncio.sleep(0.5)


def _errors(window: Window, executed: int, peak: int, calls: int) -> Counter[str]:
    errors = window.errors.copy()
    if executed != window.calls:
        errors[f"{executed} executions for {window.calls} calls"] += 1
    if peak < LEAST_PEAK * calls:
        errors[f"never more than {peak} of {calls} calls at the backend at once"] += 1
    return errors


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    outcome = Outcome()
    calls = SMOKE_CALLS if options.smoke else CALLS
    for transport in (Transport.STDIO,) if options.smoke else Transport:
        for course in courses(options)[: 1 if options.smoke else None]:
            # A gateway of its own for each: memory that was used once is not given back.
            stack = start(bench, transport, course)
            row, errors = await measure_course(stack, transport, course, calls)
            stack.close()
            stack.desk.clear()
            outcome.rows.append(row)
            outcome.errors += errors
            print(
                f"{transport}, {course.name}: p99 {row['p99_s']} s, {row['kib_a_call']} KiB a call",
                flush=True,
            )
    outcome.goals = [goal for row in outcome.rows for goal in goals_of(row)]
    return outcome


def goals_of(row: Row) -> list[Goal]:
    """Hold one row against what is promised."""
    what = f"{row['in_flight']:,} calls of {CALL_SECONDS:g} s, {row['backend']}, {row['course']}"
    return [
        Goal(text=f"{what}: left unanswered", wanted=0, measured=row["calls"] - row["answered"]),
        Goal(text=f"{what}: p99 in seconds", wanted=GOAL_P99, measured=row["p99_s"]),
        Goal(text=f"{what}: KiB a call in flight", wanted=GOAL_KIB, measured=row["kib_a_call"]),
    ]


SCRIPT = Script(
    name="in_flight",
    about="a thousand calls of a second each at once, through one web and one worker process",
    columns={
        "backend": "backend over",
        "course": "course",
        "in_flight": "in flight",
        "peak": "peak at backend",
        "calls": "calls",
        "answered": "answered",
        "rate": "calls/s",
        "p50_s": "p50 s",
        "p99_s": "p99 s",
        "cpu_us": "CPU us/call",
        "idle_mib": "idle MiB",
        "peak_mib": "peak MiB",
        "kib_a_call": "KiB a call in flight",
    },
    measure=measure,
    rounds=1,
    seconds=4.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
