"""``python -m benchmarks.web_classes``: gunicorn's worker classes, on the door to one tool.

One Redis server, one worker, and beside each other one web process of every class. Each is called in interleaved
rounds. Then each is asked to hold event streams, calls of a slow tool that tells of its progress, and is called again
beside them.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from statistics import median

from benchmarks.desk import Transport
from benchmarks.figures import Window, median_of, percentile, rounded
from benchmarks.goals import Row
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.parts import memory_bytes
from benchmarks.processes import Process
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Stack, cpu_of, endpoint, stdio_tool
from benchmarks.streams import streams
from benchmarks.tally import total
from benchmarks.wire import Era

CONCURRENCY = (16, 64)
BESIDE = 16
STREAMS, SMOKE_STREAMS = 500, 20
OPEN_WITHIN, SMOKE_OPEN_WITHIN = 5.0, 2.0
WARM_UP = 0.5
TOOL = "echo"

CLASSES = {
    "ours, on gevent": (),
    "gevent, short way by WSGI": ("--worker-class", "gevent"),
    "gevent, Flask's routes": ("--worker-class", "benchmarks.flask_only.Worker"),
    "gthread, 64 threads": ("--worker-class", "gthread", "--threads", "64"),
    "gthread, 600 threads": ("--worker-class", "gthread", "--threads", "600"),
}
SMOKE_CLASSES = ("ours, on gevent", "gthread, 64 threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One window; the web process's CPU in microseconds a call."""

    window: Window
    web_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What became of the streams, and of the calls beside them."""

    asked: int
    opened: int
    completed: int
    kib_each: float
    beside: Window


@dataclass(slots=True, kw_only=True)
class Web:
    """One web process."""

    name: str
    stack: Stack
    port: int
    process: Process
    rounds: dict[int, list[Round]] = field(default_factory=dict)
    held: Held | None = None

    def load(self) -> HttpLoad:
        """Return load on its door."""
        return HttpLoad(endpoint(self.port, TOOL), era=Era.LEGACY, mode=SessionMode.SHARED)

    def row(self) -> Row:
        """The row of the table."""
        row: dict[str, str | int | float | None] = {"web": self.name}
        for concurrency, rounds in self.rounds.items():
            windows = [it.window for it in rounds]
            row[f"rate_{concurrency}"] = rounded(median(it.rps for it in windows))
            row[f"p50_{concurrency}"] = rounded(
                median_of([percentile(it.latencies, 50) * 1e3 for it in windows])
            )
            row[f"p99_{concurrency}"] = rounded(
                median_of([percentile(it.latencies, 99) * 1e3 for it in windows])
            )
            row[f"cpu_{concurrency}"] = rounded(median(it.web_us for it in rounds))
        if self.held is not None:
            beside = self.held.beside
            row |= {
                "streams": f"{self.held.opened} of {self.held.asked}",
                "opened": self.held.opened,
                "completed": self.held.completed,
                "kib_each": rounded(self.held.kib_each),
                "rate_beside": rounded(beside.rps),
                "p50_beside": rounded(percentile(beside.latencies, 50) * 1e3),
                "failed_beside": beside.errors.total(),
            }
        return row


def start(bench: Bench, names: Collection[str]) -> list[Web]:
    """Start a web process of every class of that name that can be had here."""
    desk = bench.desk("web")
    stack = Stack(desk, {TOOL: stdio_tool(desk)})
    stack.start_worker()
    webs = []
    for name in names:
        port = stack.start_web(*CLASSES[name])
        webs.append(Web(name=name, stack=stack, port=port, process=stack.webs[-1]))
    stack.wait_discovered()
    return webs


async def measure_round(web: Web, concurrency: int, seconds: float) -> tuple[Round, Counter[str]]:
    """Measure one window."""
    tally = web.stack.desk.folder / Transport.STDIO
    async with web.load().open(concurrency) as runner:
        warm = await runner.run(WARM_UP)
        cpu, before = cpu_of(web.process), total(tally).calls
        window = await runner.run(seconds)
        used, ran = cpu_of(web.process) - cpu, total(tally).calls - before
    errors = warm.errors + window.errors
    if ran != window.calls:
        errors[f"{web.name}: {ran} executions for {window.calls} calls"] += 1
    return Round(window=window, web_us=used / max(window.calls, 1) * 1e6), errors


async def hold(web: Web, count: int, seconds: float, patience: float) -> tuple[Held, Counter[str]]:
    """Hold ``count`` streams, which have ``patience`` seconds to begin, and call beside them.

    A class that cannot serve both makes no error by that: its figures say so, and how many calls beside failed.
    """
    length = patience + seconds + WARM_UP + 1.0
    arguments = {"wait": length, "beats": int(length)}
    target = endpoint(web.port, TOOL, arguments=arguments, progress=True)
    async with web.load().open(BESIDE) as runner:
        await runner.run(WARM_UP)
        before = memory_bytes(web.process.members())
        async with streams(target, count) as held:
            await held.wait_opened(patience)
            opened, memory = held.opened, memory_bytes(web.process.members())
            beside = await runner.run(seconds)
            await held.wait_completed(length)
            completed = held.completed
    found = Held(
        asked=count,
        opened=opened,
        completed=completed,
        kib_each=(memory - before) / max(opened, 1) / 1024,
        beside=beside,
    )
    errors: Counter[str] = Counter()
    if completed < opened:
        errors[f"{web.name}: {opened - completed} of {opened} streams had no answer"] += 1
    return found, errors


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    webs = start(bench, SMOKE_CLASSES if options.smoke else CLASSES)
    concurrencies = CONCURRENCY[:1] if options.smoke else CONCURRENCY
    patience = SMOKE_OPEN_WITHIN if options.smoke else OPEN_WITHIN
    outcome = Outcome()
    for number in range(options.rounds):
        for concurrency in concurrencies:
            for web in rotated(webs, number):
                found, errors = await measure_round(web, concurrency, options.seconds)
                web.rounds.setdefault(concurrency, []).append(found)
                outcome.errors += errors
                print(
                    f"round {number + 1} c={concurrency:<3} {web.name:22} {found.window.rps:7.1f} calls/s, "
                    f"web {found.web_us:.0f} us a call, {errors.total()} errors",
                    flush=True,
                )
    for web in webs:
        count = SMOKE_STREAMS if options.smoke else STREAMS
        web.held, errors = await hold(web, count, options.seconds, patience)
        outcome.errors += errors
        print(
            f"{web.name:22} {web.held.opened} streams, {web.held.beside.rps:.1f} calls/s beside", flush=True
        )
    outcome.rows = [web.row() for web in webs]
    webs[0].stack.close()
    return outcome


SCRIPT = Script(
    name="web_classes",
    about="gunicorn's worker classes: throughput, latency, CPU, and event streams held",
    columns={
        "web": "worker class",
        **{
            f"{key}_{concurrency}": f"{head} (c={concurrency})"
            for concurrency in CONCURRENCY
            for key, head in {"rate": "calls/s", "p50": "p50 ms", "p99": "p99 ms", "cpu": "web us"}.items()
        },
        "streams": "streams held",
        "kib_each": "KiB a stream",
        "rate_beside": f"calls/s beside (c={BESIDE})",
        "p50_beside": "p50 ms beside",
        "failed_beside": "failed beside",
    },
    measure=measure,
    rounds=3,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
