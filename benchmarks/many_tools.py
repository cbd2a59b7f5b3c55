"""``python -m benchmarks.many_tools``: what a call costs where five hundred tools are registered, and where one is.

Two whole gateways stand side by side, one with a single tool and one with five hundred, all of them the same HTTP
backend. They are called in interleaved rounds; in the second one, once at a single tool, and once going round over
fifty. No slot is short then. Afterwards both get a worker with fewer slots than there are callers, and the first is
held against the second, going round over fifty, once more. The cost is the CPU of web, worker and Redis for each call.
Discovery has ended before, and does not come again while anything is measured: the backend would see it.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.desk import Transport
from benchmarks.figures import median_of, percentile, ratio, rounded
from benchmarks.goals import Goal, Row
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.parts import PARTS_OF_A_CALL, Part
from benchmarks.processes import free_port
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, endpoint
from benchmarks.tally import total
from benchmarks.wire import Era

MANY, SPREAD = 500, 50
SMOKE_MANY, SMOKE_SPREAD = 20, 5
CONCURRENCY = 16
FEW_SLOTS = 8
"""Fewer than the callers: calls wait in their queues, and each end of a call makes the worker look again."""
WARM_UP = 0.5
GOAL = 1.10
NO_DISCOVERY = {"discovery": {"ttl": 3600.0}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One window. CPU in microseconds a call."""

    rate: float
    p50_ms: float
    cpu_us: dict[Part, float]
    errors: Counter[str]

    @property
    def total_us(self) -> float:
        """What the goal is about."""
        return sum(self.cpu_us[part] for part in PARTS_OF_A_CALL)


@dataclass(slots=True, kw_only=True)
class Cell:
    """One way to call one gateway, with its rounds."""

    name: str
    stack: Stack
    registered: int
    called: int
    slots: int
    idle_ms: float
    rounds: list[Round] = field(default_factory=list)

    def load(self) -> HttpLoad:
        """Return the load: round over the called tools."""
        endpoints = [endpoint(self.stack.port, name) for name in tool_names(self.called)]
        return HttpLoad(*endpoints, era=Era.LEGACY, mode=SessionMode.SHARED)

    def row(self, base: Cell) -> Row:
        """The row of the table; ``base`` is the gateway with one tool and as many slots."""
        parts = {
            f"{part}_us": rounded(median(it.cpu_us[part] for it in self.rounds)) for part in PARTS_OF_A_CALL
        }
        return {
            "gateway": self.name,
            "registered": self.registered,
            "called": self.called,
            "slots": self.slots,
            "rate": rounded(median(it.rate for it in self.rounds)),
            "p50_ms": rounded(median_of([it.p50_ms for it in self.rounds])),
            **parts,
            "total_us": rounded(median(it.total_us for it in self.rounds)),
            "idle_ms": rounded(self.idle_ms),
            "to_one": ratio(cost_to(self, base), 1.0),
        }


def cost_to(cell: Cell, base: Cell) -> float:
    """Return the median of the cost to the base's cost in the same round: a busy minute falls on both."""
    pairs = zip(cell.rounds, base.rounds, strict=True)
    return median_of([its.total_us / other.total_us if other.total_us else math.nan for its, other in pairs])


def tool_names(count: int) -> list[str]:
    """Return the ids of ``count`` tools."""
    return [f"tool{number:03}" for number in range(count)]


def start(bench: Bench, name: str, count: int) -> Stack:
    """Start a gateway with ``count`` tools on one backend, and let it discover them."""
    desk = bench.desk(name)
    url = desk.start_http_backend(free_port())
    stack = Stack(
        desk, {tool: {"url": url, "health_interval": 0} for tool in tool_names(count)}, NO_DISCOVERY
    )
    stack.start_worker()
    stack.start_web()
    stack.wait_discovered()
    return stack


async def idle_cost(stack: Stack, seconds: float) -> float:
    """Return the milliseconds of CPU that web, worker and Redis use in a second without any call."""
    before = stack.desk.cpu_by_part()
    await asyncio.sleep(seconds)
    after = stack.desk.cpu_by_part()
    return sum(after[part] - before[part] for part in PARTS_OF_A_CALL) / seconds * 1e3


async def measure_round(cell: Cell, seconds: float) -> Round:
    """Measure one window."""
    tally = cell.stack.desk.folder / Transport.HTTP
    async with cell.load().open(CONCURRENCY) as runner:
        warm = await runner.run(WARM_UP)
        before, seen = cell.stack.desk.cpu_by_part(), total(tally)
        window = await runner.run(seconds)
        after, then = cell.stack.desk.cpu_by_part(), total(tally)
    errors = warm.errors + window.errors
    calls, others = then.calls - seen.calls, then.others - seen.others
    if calls != window.calls:
        errors[f"{cell.name}: {calls} executions for {window.calls} calls"] += 1
    if others:
        errors[f"{cell.name}: the backend was asked {others} times for something else than a call"] += 1
    return Round(
        rate=window.rps,
        p50_ms=percentile(window.latencies, 50) * 1e3,
        cpu_us={part: (after[part] - before[part]) / max(window.calls, 1) * 1e6 for part in Part},
        errors=errors,
    )


def with_few_slots(stacks: Iterable[Stack]) -> None:
    """Put workers with few slots in the place of those that run."""
    for stack in stacks:
        stack.workers[-1].stop()
        stack.start_worker("--concurrency", str(FEW_SLOTS))


async def measure_group(cells: Sequence[Cell], options: Options, outcome: Outcome) -> None:
    """Measure cells in interleaved rounds; the first is what the others are held against."""
    base, *others = cells
    for cell in cells:
        await cell.load().probe()  # a tool's first call opens its session, which is no part of a call's cost
    for number in range(options.rounds):
        for cell in rotated(cells, number):
            cell.rounds.append(await measure_round(cell, options.seconds))
            last = cell.rounds[-1]
            outcome.errors += last.errors
            print(
                f"round {number + 1} {cell.name:24} {last.rate:7.1f} calls/s, {last.total_us:.0f} us CPU a call, "
                f"{last.errors.total()} errors",
                flush=True,
            )
    outcome.rows += [cell.row(base) for cell in cells]
    outcome.goals += [
        Goal(
            text=f"{cell.registered} tools registered, {cell.called} called, {cell.slots} slots: "
            "CPU a call to that of one tool",
            wanted=GOAL,
            measured=ratio(cost_to(cell, base), 1.0),
        )
        for cell in others
    ]


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    many, spread = (SMOKE_MANY, SMOKE_SPREAD) if options.smoke else (MANY, SPREAD)
    one, full = stacks = start(bench, "one", 1), start(bench, "many", many)

    async def cells(slots: int, *called: int) -> list[Cell]:
        """The cell of one tool, then those of the other gateway."""
        idle = {stack: await idle_cost(stack, options.seconds) for stack in stacks}
        base = Cell(name="one tool", stack=one, registered=1, called=1, slots=slots, idle_ms=idle[one])
        return [base] + [
            Cell(
                name=f"many, {count} called",
                stack=full,
                registered=many,
                called=count,
                slots=slots,
                idle_ms=idle[full],
            )
            for count in called
        ]

    outcome = Outcome()
    await measure_group(await cells(one.settings.worker.concurrency, 1, spread), options, outcome)
    with_few_slots(stacks)
    await measure_group(await cells(FEW_SLOTS, spread), options, outcome)
    for stack in stacks:
        stack.close()
    return outcome


SCRIPT = Script(
    name="many_tools",
    about="the cost of a call with five hundred tools registered, beside one",
    columns={
        "gateway": "gateway",
        "registered": "registered",
        "called": "called",
        "slots": "slots",
        "rate": "calls/s",
        "p50_ms": "p50 ms",
        **{f"{part}_us": f"{part} us" for part in PARTS_OF_A_CALL},
        "total_us": "together us",
        "idle_ms": "idle ms/s",
        "to_one": "to one tool",
    },
    measure=measure,
    rounds=5,
    seconds=1.5,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
