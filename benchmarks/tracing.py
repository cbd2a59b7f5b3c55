"""``python -m benchmarks.tracing``: what tracing, pushed metrics and the access log cost.

A gateway of each kind side by side, each with a Redis, a worker and a web process of its own, is called in interleaved
rounds: without tracing, with a tenth of the calls traced, with all of them, with the access log, and with metrics
pushed every second. Spans and metrics go out over OTLP and HTTP to a sink. All gateways stand on the same machine,
so the ratios count and not the rates.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.desk import Transport
from benchmarks.figures import Window, percentile, rounded
from benchmarks.goals import Goal, Row
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.processes import free_port
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, cpu_of, endpoint, stdio_tool
from benchmarks.tally import total
from benchmarks.wire import Era

CONCURRENCY = 16
WARM_UP = 0.5
SINK = Path(__file__).with_name("otlp_sink.py")
TOOL = "echo"
OFF, TENTH, ALL, ACCESS = "off", "10 % of the calls", "all calls", "off, with the access log"
PUSHED = "off, with metrics pushed"
KINDS, SMOKE_KINDS = (OFF, TENTH, ALL, ACCESS, PUSHED), (OFF, ALL)
LEAST = 0.9
"""Part of the rate without either that must be left with a tenth of the calls traced, or with metrics pushed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One window, and the CPU of both programs in microseconds a call."""

    window: Window
    web_us: float
    worker_us: float


@dataclass(slots=True, kw_only=True)
class Kind:
    """One gateway."""

    name: str
    stack: Stack
    rounds: list[Round] = field(default_factory=list)

    def row(self, base: Kind) -> Row:
        """The row of the table; ratios are of each round to the same round of ``base``."""
        pairs = list(zip(self.rounds, base.rounds, strict=True))
        return {
            "tracing": self.name,
            "rate": rounded(median(it.window.rps for it in self.rounds)),
            "p50": rounded(median(percentile(it.window.latencies, 50) * 1e3 for it in self.rounds)),
            "web_us": rounded(median(it.web_us for it in self.rounds)),
            "worker_us": rounded(median(it.worker_us for it in self.rounds)),
            "rate_ratio": rounded(median(own.window.rps / other.window.rps for own, other in pairs)),
            "cpu_ratio": rounded(
                median(
                    (own.web_us + own.worker_us) / (other.web_us + other.worker_us) for own, other in pairs
                )
            ),
        }


def settings_of(sink: int) -> Mapping[str, dict[str, Any]]:
    """The sections of each kind's settings file."""
    endpoint = f"http://127.0.0.1:{sink}"
    traced = {"exporter": "otlp_http", "endpoint": endpoint}
    pushed = {"metrics_exporter": "otlp_http", "metrics_interval": 1, "endpoint": endpoint}
    return {
        OFF: {},
        TENTH: {"telemetry": {**traced, "sampling_ratio": 0.1}},
        ALL: {"telemetry": {**traced, "sampling_ratio": 1.0}},
        ACCESS: {"logging": {"format": "json", "levels": {"canalgate.access": "debug"}}},
        PUSHED: {"telemetry": pushed},
    }


def start(bench: Bench, names: Collection[str]) -> list[Kind]:
    """Start a gateway of each of these kinds, and the sink."""
    sink = free_port()
    bench.desk("sink").spawn_server("sink", [sys.executable, str(SINK), str(sink)], port=sink)
    kinds = []
    for number, name in enumerate(names):
        desk = bench.desk(f"gateway{number}")
        stack = Stack(desk, {TOOL: stdio_tool(desk)}, settings_of(sink)[name])
        stack.start_worker()
        stack.start_web()
        stack.wait_discovered()
        kinds.append(Kind(name=name, stack=stack))
    return kinds


async def measure_round(kind: Kind, seconds: float) -> Counter[str]:
    """Measure one window."""
    stack = kind.stack
    web, worker, tally = stack.webs[-1], stack.workers[-1], stack.desk.folder / Transport.STDIO
    load = HttpLoad(endpoint(stack.port, TOOL), era=Era.LEGACY, mode=SessionMode.SHARED)
    async with load.open(CONCURRENCY) as runner:
        warm = await runner.run(WARM_UP)
        cpu, before = (cpu_of(web), cpu_of(worker)), total(tally).calls
        window = await runner.run(seconds)
        used = cpu_of(web) - cpu[0], cpu_of(worker) - cpu[1]
        ran = total(tally).calls - before
    per_call = 1e6 / max(window.calls, 1)
    kind.rounds.append(Round(window=window, web_us=used[0] * per_call, worker_us=used[1] * per_call))
    errors = warm.errors + window.errors
    if ran != window.calls:
        errors[f"{kind.name}: {ran} executions for {window.calls} calls"] += 1
    return errors


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    kinds, outcome = start(bench, SMOKE_KINDS if options.smoke else KINDS), Outcome()
    for number in range(options.rounds):
        for kind in rotated(kinds, number):
            outcome.errors += await measure_round(kind, options.seconds)
            found = kind.rounds[-1]
            print(
                f"round {number + 1} {kind.name:26} {found.window.rps:7.1f} calls/s, "
                f"web {found.web_us:.0f} us, worker {found.worker_us:.0f} us a call",
                flush=True,
            )
    outcome.rows = [kind.row(kinds[0]) for kind in kinds]
    promised = {
        TENTH: f"{TENTH} traced: calls/s to those without tracing",
        PUSHED: "metrics pushed every second: calls/s to those without",
    }
    outcome.goals = [
        Goal(text=promised[kind], wanted=LEAST, measured=row["rate_ratio"], at_least=True)
        for row in outcome.rows
        if (kind := row["tracing"]) in promised
    ]
    for kind in kinds:
        kind.stack.close()
    return outcome


SCRIPT = Script(
    name="tracing",
    about="calls without tracing, with some and with all of them traced, with the access log, with metrics pushed",
    columns={
        "tracing": "tracing",
        "rate": f"calls/s (c={CONCURRENCY})",
        "p50": "p50 ms",
        "web_us": "web us",
        "worker_us": "worker us",
        "rate_ratio": "rate to off",
        "cpu_ratio": "CPU to off",
    },
    measure=measure,
    rounds=7,
    seconds=2.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
