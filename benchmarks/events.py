"""``python -m benchmarks.events``: what Celery's task events cost, and Flower that listens to them.

A gateway of each kind side by side, called in interleaved rounds: without task events, with them (as is usual), and
with Flower beside. All of them stand on the same machine, Flower too, so the ratios count and not the rates.
"""

from __future__ import annotations

import sys

from benchmarks.goals import Row
from benchmarks.processes import free_port
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, stdio_tool
from benchmarks.tracing import CONCURRENCY, TOOL, Kind, measure_round
from benchmarks.tracing import SCRIPT as TRACING

OFF, ON, FLOWER = "off", "on", "on, and Flower"
TOKEN = {"name": "bench", "token": "a-token-of-the-benchmark"}


def start(bench: Bench) -> list[Kind]:
    """Start a gateway of each kind."""
    kinds = []
    for number, name in enumerate((OFF, ON, FLOWER)):
        desk, port = bench.desk(f"gateway{number}"), free_port()
        settings = {
            "worker": {"events": name != OFF},
            "flower": {"port": port},
            "admin": {"tokens": [TOKEN]},
        }
        stack = Stack(desk, {TOOL: stdio_tool(desk)}, settings)
        stack.start_worker()
        stack.start_web()
        if name == FLOWER:
            stack.start_flower(port)
        stack.wait_discovered()
        kinds.append(Kind(name=name, stack=stack))
    return kinds


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure all."""
    kinds, outcome = start(bench), Outcome()
    for number in range(options.rounds):
        for kind in rotated(kinds, number):
            outcome.errors += await measure_round(kind, options.seconds)
            print(f"round {number + 1} {kind.name:16} {kind.rounds[-1].window.rps:7.1f} calls/s", flush=True)
    outcome.rows = [_row(kind, kinds[0]) for kind in kinds]
    for kind in kinds:
        kind.stack.close()
    return outcome


def _row(kind: Kind, base: Kind) -> Row:
    row = dict(kind.row(base))
    return {"events": row.pop("tracing"), **row}


SCRIPT = Script(
    name="events",
    about=f"calls without task events, with them, and with Flower beside (c={CONCURRENCY})",
    columns={
        "events": "task events",
        **{name: told for name, told in TRACING.columns.items() if name != "tracing"},
    },
    measure=measure,
    rounds=9,
    seconds=1.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
