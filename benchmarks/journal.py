"""``python -m benchmarks.journal``: what the audit of every call costs, and a sink beside it.

A gateway without the audit of calls, one with it, one with a file sink as well, and one whose sink is slow: each with a
web process, a worker and a Redis of its own, called in interleaved rounds.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.desk import Transport
from benchmarks.figures import Window, median_of, percentile, ratio, rounded
from benchmarks.goals import Row
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.parts import Part
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, endpoint, stdio_tool
from benchmarks.tally import total
from benchmarks.wire import Era
from common.domain.audit_chain import SealedRecord

CONCURRENCY = 16
WARM_UP = 0.5
TOOL = "echo"
SLOWLY = 0.5
PARTS = {Part.WEB: "web", Part.WORKER: "worker", Part.REDIS: "redis", Part.OTHER: "keeper"}


class SlowSink:
    """Takes half a second for each batch."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._seconds = float(options["seconds"])
        self._last = 0

    def write(self, records: Sequence[SealedRecord]) -> int:
        """Store nothing, slowly."""
        if records:
            time.sleep(self._seconds)
            self._last = records[-1].seq
        return self._last

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One window; CPU in microseconds a call, by part."""

    window: Window
    cpu: dict[Part, float]


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One gateway, and its rounds."""

    name: str
    stack: Stack
    rounds: list[Round] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls a second."""
        return median(it.window.rps for it in self.rounds)

    def late(self, percent: float) -> float:
        """A percentile of the latencies in milliseconds; median over the rounds."""
        return median_of([percentile(it.window.latencies, percent) * 1e3 for it in self.rounds])

    def row(self, base: Gateway) -> Row:
        """The row of the table."""
        row: dict[str, str | int | float | None] = {
            "journal": self.name,
            "rate": rounded(self.rate),
            "of_base": ratio(self.rate, base.rate),
            "p50": rounded(self.late(50)),
            "p99": rounded(self.late(99)),
            "p99_of_base": ratio(self.late(99), base.late(99)),
        }
        return row | {
            name: rounded(median(it.cpu[part] for it in self.rounds)) for part, name in PARTS.items()
        }


def start(bench: Bench, name: str, audit: dict[str, Any]) -> Gateway:
    """Start a gateway with this section ``audit``."""
    desk = bench.desk(name.replace(" ", "-").replace(",", ""))
    for sink in audit.get("sinks", ()):
        if sink["type"] == "file":
            sink["options"] = {"path": str(desk.folder / "audit.ndjson")}
    stack = Stack(desk, {TOOL: stdio_tool(desk)}, {"audit": audit})
    stack.start_worker()
    stack.start_web()
    stack.wait_discovered()
    chain = stack.keys.audit_chain
    stack.workers[0].wait_for(lambda: bool(stack.client.hget(chain, "added")), "a keeper")
    return Gateway(name=name, stack=stack)


async def measure_round(gateway: Gateway, seconds: float) -> tuple[Round, Counter[str]]:
    """Measure one window."""
    desk = gateway.stack.desk
    tally = desk.folder / Transport.STDIO
    load = HttpLoad(endpoint(gateway.stack.port, TOOL), era=Era.LEGACY, mode=SessionMode.SHARED)
    async with load.open(CONCURRENCY) as runner:
        warm = await runner.run(WARM_UP)
        before, ran_before = desk.account(Transport.STDIO), total(tally).calls
        window = await runner.run(seconds)
        used, ran = (
            desk.account(Transport.STDIO).target_cpu_by_part_since(before),
            total(tally).calls - ran_before,
        )
    errors = warm.errors + window.errors
    if ran != window.calls:
        errors[f"{gateway.name}: {ran} executions for {window.calls} calls"] += 1
    calls = max(window.calls, 1)
    return Round(window=window, cpu={part: used[part] / calls * 1e6 for part in PARTS}), errors


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    slow = {"type": "benchmarks.journal:SlowSink", "options": {"seconds": SLOWLY}}
    gateways = [
        start(bench, "calls off", {"calls": False}),
        start(bench, "calls on", {}),
        start(bench, "calls on, file sink", {"sinks": [{"type": "file"}]}),
        start(bench, "calls on, slow sink", {"sinks": [slow], "max_backlog": 10_000_000}),
    ]
    outcome = Outcome()
    for number in range(options.rounds):
        for gateway in rotated(gateways, number):
            found, errors = await measure_round(gateway, options.seconds)
            gateway.rounds.append(found)
            outcome.errors += errors
            told = ", ".join(f"{name} {found.cpu[part]:.0f}" for part, name in PARTS.items())
            print(
                f"round {number + 1} {gateway.name:20} {found.window.rps:7.1f} calls/s, "
                f"p99 {percentile(found.window.latencies, 99) * 1e3:.1f} ms, us a call: {told}, "
                f"{errors.total()} errors",
                flush=True,
            )
    outcome.rows = [gateway.row(gateways[0]) for gateway in gateways]
    for gateway in gateways:
        gateway.stack.close()
    return outcome


SCRIPT = Script(
    name="journal",
    about="the audit of every call: throughput, latency, CPU",
    columns={
        "journal": "journal",
        "rate": "calls/s",
        "of_base": "of off",
        "p50": "p50 ms",
        "p99": "p99 ms",
        "p99_of_base": "p99 of off",
        **{name: f"{name} us a call" for name in PARTS.values()},
    },
    measure=measure,
    rounds=7,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
