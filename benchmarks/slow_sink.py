"""``python -m benchmarks.slow_sink``: whether a slow sink slows calls. It must not: p99 within 1.1 times.

Two gateways that audit every call, one without a sink and one whose sink takes half a second for each batch, called in
turns; the ratio is the median of those of each round.
"""

from __future__ import annotations

import sys
from statistics import median

from benchmarks.figures import percentile, rounded
from benchmarks.goals import Goal
from benchmarks.journal import SCRIPT as JOURNAL
from benchmarks.journal import SLOWLY, Round, measure_round, start
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated

MOST = 1.1


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure both."""
    slow = {"type": "benchmarks.journal:SlowSink", "name": "slow", "options": {"seconds": SLOWLY}}
    without = start(bench, "without a sink", {"max_backlog": 10_000_000})
    beside = start(bench, "with a slow sink", {"sinks": [slow], "max_backlog": 10_000_000})
    outcome = Outcome()
    for number in range(options.rounds):
        for gateway in rotated([without, beside], number):
            found, errors = await measure_round(gateway, options.seconds)
            gateway.rounds.append(found)
            outcome.errors += errors
            print(f"round {number + 1} {gateway.name:20} p99 {_late(found):.1f} ms", flush=True)
    outcome.rows = [gateway.row(without) for gateway in (without, beside)]
    pairs = zip(without.rounds, beside.rounds, strict=True)
    found_ratio = rounded(median(_late(slowly) / _late(quickly) for quickly, slowly in pairs))
    outcome.goals = [Goal(text="p99 with a slow sink to p99 without", wanted=MOST, measured=found_ratio)]
    for gateway in (without, beside):
        gateway.stack.close()
    return outcome


def _late(measured: Round) -> float:
    return percentile(measured.window.latencies, 99) * 1e3


SCRIPT = Script(
    name="slow-sink",
    about="a sink that takes half a second a batch: latency of calls beside it",
    columns=JOURNAL.columns,
    measure=measure,
    rounds=9,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
