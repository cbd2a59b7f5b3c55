"""``python -m benchmarks.two_workers``: does a second worker double what a tool that waits can do.

The tool waits a tenth of a second, a worker holds 32 calls: it is the slots that bound the throughput, and more calls
lie in the queue than both workers can take. While the load runs, the queue's length and what each worker has taken
are looked at in one step, again and again: nobody may hold more than its slots, and what is in nobody's hands must lie
in the queue, where other workers and autoscalers see it.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

from benchmarks.desk import Transport
from benchmarks.figures import Window, median_of, percentile, ratio, rounded
from benchmarks.goals import Goal, Row
from benchmarks.queue_load import QUEUE, TOOL, QueueLoad, QueueRunner, gateway
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, stdio_tool
from benchmarks.tally import total
from benchmarks.wire import Endpoint
from common.calls.head import POOL as HEAD_OF_POOL
from common.domain.ids import NodeId, ToolId, encode_part
from common.store.scripts import run

CALL_SECONDS, SLOTS = 0.1, 32
"""One caller's own session would be held by one worker: the tool has a pool, with a session for each worker."""
IN_FLIGHT = 128
WARM_UP = 0.5
GOAL_OF_DOUBLE, GOAL_OF_BACKLOG = 0.05, 0.9
_LOOK = 0.02
_SAMPLE = """
local sample = {redis.call('LLEN', KEYS[1])}
for i = 2, #KEYS, 2 do
  sample[1] = sample[1] + redis.call('LLEN', KEYS[i])
  sample[#sample + 1] = redis.call('HLEN', KEYS[i + 1])
end
return sample
"""


@dataclass(slots=True)
class Samples:
    """What lay where: the queue's length, what each worker had taken, and what the client waited for."""

    queued: list[int] = field(default_factory=list)
    held: list[list[int]] = field(default_factory=list)
    waited_for: list[int] = field(default_factory=list)

    @property
    def most_held(self) -> int:
        """The most that any one worker had in its hands."""
        return max((max(each) for each in self.held), default=0)

    @property
    def backlog_seen(self) -> float | None:
        """The part of the calls in nobody's hands that the queue's length shows; median over the samples."""
        parts = [
            queued / (waited_for - sum(held))
            for queued, held, waited_for in zip(self.queued, self.held, self.waited_for, strict=True)
            if waited_for > sum(held)
        ]
        return median(parts) if parts else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One window."""

    window: Window
    samples: Samples
    errors: Counter[str]


@dataclass(slots=True, kw_only=True)
class Crew:
    """A gateway with its workers, and its rounds."""

    name: str
    stack: Stack
    workers: list[str]
    load: QueueLoad
    rounds: list[Round] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls a second."""
        return median(it.window.rps for it in self.rounds)

    @property
    def most_held(self) -> int:
        """The most that any worker ever had in its hands.

        This may be some more than its slots for a moment, as a call that has ended frees its slot before its end is
        written: what a worker fetched beyond its slots would be in its hands all the time.
        """
        return max(it.samples.most_held for it in self.rounds)

    @property
    def usually_held(self) -> float:
        """What the fullest worker had in its hands at a moment; median over the samples."""
        return median(max(each) for it in self.rounds for each in it.samples.held)

    @property
    def backlog_seen(self) -> float:
        """See `Samples.backlog_seen`."""
        return median_of([it.samples.backlog_seen or 0.0 for it in self.rounds])

    @property
    def most_run(self) -> int:
        """The most calls that any worker's backend was working on at once."""
        return total(self.stack.desk.folder / Transport.STDIO).peak

    def row(self, base: Crew) -> Row:
        """The row of the table."""
        return {
            "gateway": self.name,
            "slots": SLOTS * len(self.workers),
            "in_flight": IN_FLIGHT,
            "rate": rounded(self.rate),
            "ideal": SLOTS * len(self.workers) / CALL_SECONDS,
            "p50_ms": rounded(median_of([percentile(it.window.latencies, 50) * 1e3 for it in self.rounds])),
            "queued": rounded(median(median(it.samples.queued) for it in self.rounds)),
            "usually_held": rounded(self.usually_held),
            "most_held": self.most_held,
            "most_run": self.most_run,
            "backlog_seen": rounded(self.backlog_seen),
            "samples": sum(len(it.samples.queued) for it in self.rounds),
            "to_one": ratio(self.rate, base.rate),
        }


def start(bench: Bench, name: str, workers: int) -> Crew:
    """Start a gateway without a web process."""
    desk = bench.desk(name.replace(" ", "-"))
    stack = Stack(desk, {TOOL: {**stdio_tool(desk), "routing": "least_loaded", "pool_size": workers}})
    names = [stack.start_worker("--concurrency", str(SLOTS)) for _ in range(workers)]
    stack.publish_tools()
    stack.wait_discovered()
    for number, worker in enumerate(names):
        # Who fetches first would own all of them.
        claimed = [
            stack.keys.begin,
            stack.node_of(worker) or "",
            encode_part(ToolId(TOOL)),
            f"{HEAD_OF_POOL}{number}",
        ]
        run(stack.client, "session_reclaim", [stack.keys.sessions(ToolId(TOOL))], claimed)
    load = QueueLoad(
        address=stack.redis.address,
        dialect=gateway(stack.keys),
        keys=stack.keys,
        target=Endpoint(port=0, arguments={"wait": CALL_SECONDS}),
        pool_size=workers,
    )
    return Crew(name=name, stack=stack, workers=names, load=load)


@asynccontextmanager
async def sampling(crew: Crew, runner: QueueRunner) -> AsyncIterator[Samples]:
    """Look at the queue while the block runs."""
    samples = Samples()
    task = asyncio.create_task(_sample(crew, runner, samples))
    try:
        yield samples
    finally:
        task.cancel()


async def _sample(crew: Crew, runner: QueueRunner, samples: Samples) -> None:
    keys, spelled = [QUEUE], crew.stack.keys
    for name in crew.workers:
        node = NodeId(crew.stack.node_of(name) or "")
        keys += [spelled.direct(node, QUEUE), spelled.unacked(node)]
    look = crew.stack.client.register_script(_SAMPLE)
    while True:
        waited_for = runner.in_flight
        # Straight on this thread: a look takes less time than handing it to another would.
        queued, *held = cast(list[int], look(keys=cast(Any, keys)))
        if waited_for == IN_FLIGHT:  # at the end of a window there is less to do than there are callers
            samples.queued.append(queued)
            samples.held.append(held)
            samples.waited_for.append(waited_for)
        await asyncio.sleep(_LOOK)


async def measure_round(crew: Crew, seconds: float) -> Round:
    """Measure one window."""
    tally = crew.stack.desk.folder / Transport.STDIO
    async with crew.load.open(IN_FLIGHT) as runner:
        warm = await runner.run(WARM_UP)
        before = total(tally).calls
        async with sampling(crew, runner) as samples:
            window = await runner.run(seconds)
    errors = warm.errors + window.errors
    if (ran := total(tally).calls - before) != window.calls:
        errors[f"{crew.name}: {ran} executions for {window.calls} calls"] += 1
    return Round(window=window, samples=samples, errors=errors)


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    crews = [start(bench, "one worker", 1), start(bench, "two workers", 2)]
    outcome = Outcome()
    for number in range(options.rounds):
        for crew in rotated(crews, number):
            crew.rounds.append(await measure_round(crew, options.seconds))
            last = crew.rounds[-1]
            outcome.errors += last.errors
            print(
                f"round {number + 1} {crew.name:12} {last.window.rps:7.1f} calls/s, at most "
                f"{last.samples.most_held} held by a worker, {last.errors.total()} errors",
                flush=True,
            )
    for crew in crews:
        outcome.errors += checked(crew)
        crew.stack.close()
    if not all(it.samples.held for crew in crews for it in crew.rounds):
        return outcome
    outcome.rows = [crew.row(crews[0]) for crew in crews]
    outcome.goals = goals(*crews)
    return outcome


def checked(crew: Crew) -> Counter[str]:
    """What would make the figures untrue: the backlog must be there, and every slot in use."""
    errors: Counter[str] = Counter()
    if not all(it.samples.queued for it in crew.rounds):
        return Counter({f"{crew.name}: a round without a look at the queue": 1})
    if not all(median(it.samples.queued) > 0 for it in crew.rounds):
        errors[
            f"{crew.name}: nothing lay in the queue, so it was not the slots that bounded the throughput"
        ] += 1
    if crew.most_run < SLOTS:
        errors[f"{crew.name}: no backend ever had more than {crew.most_run} of {SLOTS} calls at once"] += 1
    return errors


def goals(one: Crew, two: Crew) -> list[Goal]:
    """Hold both against what is promised."""
    double = ratio(abs(two.rate / one.rate - 2), 2.0) if one.rate else None
    return [
        Goal(
            text="two workers: throughput off double, as a part of it", wanted=GOAL_OF_DOUBLE, measured=double
        ),
        *(
            goal
            for crew in (one, two)
            for goal in (
                Goal(
                    text=f"{crew.name}: calls usually held by one", wanted=SLOTS, measured=crew.usually_held
                ),
                Goal(
                    text=f"{crew.name}: most calls run by one at once", wanted=SLOTS, measured=crew.most_run
                ),
                Goal(
                    text=f"{crew.name}: part of the backlog that the queue's length shows",
                    wanted=GOAL_OF_BACKLOG,
                    measured=rounded(crew.backlog_seen),
                    at_least=True,
                ),
            )
        ),
    ]


SCRIPT = Script(
    name="two_workers",
    about="two workers beside one, on a tool that waits",
    columns={
        "gateway": "workers",
        "slots": "slots",
        "in_flight": "in flight",
        "rate": "calls/s",
        "ideal": "slots / wait",
        "p50_ms": "p50 ms",
        "queued": "in queue",
        "usually_held": "held",
        "most_held": "most held",
        "most_run": "most run",
        "backlog_seen": "backlog shown",
        "to_one": "to one",
    },
    measure=measure,
    rounds=4,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
