"""``python -m benchmarks.data_plane``: a worker process and its queue, beside stock Celery on the same load.

Every row is one worker process as ``celery worker`` starts it, with a Redis server of its own and its events on. The
client puts the same messages on the queue and waits for the replies; there is no web process and no HTTP.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.desk import Desk, Transport
from benchmarks.figures import Window, median_of, percentile, ratio, rounded
from benchmarks.goals import Goal, Row
from benchmarks.parts import Part
from benchmarks.processes import StartError
from benchmarks.queue_load import QUEUE, TOOL, QueueLoad, gateway, stock
from benchmarks.script import Bench, Options, Outcome, Script, main, rotated
from benchmarks.stack import Redis, Stack, stdio_tool
from benchmarks.tally import total
from benchmarks.targets import REPOSITORY
from common.store.client import connect

WARM_UP = 0.5
CONCURRENCY = (1, 16, 64, 256)
GOAL_CONCURRENCY = 64
STOCK, OURS = "stock, threads", "canalgate"
THREADS, LIMIT = 4, 512
EVENTS_WITHIN = 10.0
_FLAGS = ("--task-events", "--without-gossip", "--without-mingle", "--queues", QUEUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One worker with its Redis server. ``tally`` is where its task, or its tool, counts executions."""

    name: str
    desk: Desk
    redis: Redis
    load: QueueLoad
    tally: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One window. CPU in microseconds a task."""

    window: Window
    worker_us: float
    redis_us: float
    errors: Counter[str]


@dataclass(slots=True, kw_only=True)
class Cell:
    """The rounds of one worker at one concurrency."""

    name: str
    concurrency: int
    rounds: list[Round] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tasks a second."""
        return median(it.window.rps for it in self.rounds)

    @property
    def worker_us(self) -> float:
        """The worker's CPU a task."""
        return median(it.worker_us for it in self.rounds)

    def row(self, base: Cell) -> Row:
        """The row of the table; ``base`` is stock Celery at the same concurrency."""
        return {
            "worker": self.name,
            "c": self.concurrency,
            "rate": rounded(self.rate),
            "p50_ms": rounded(median_of([percentile(it.window.latencies, 50) * 1e3 for it in self.rounds])),
            "p99_ms": rounded(median_of([percentile(it.window.latencies, 99) * 1e3 for it in self.rounds])),
            "worker_us": rounded(self.worker_us),
            "redis_us": rounded(median(it.redis_us for it in self.rounds)),
            "client_us": rounded(median_of([_client_us(it.window) for it in self.rounds])),
            "rate_to_stock": ratio(self.rate, base.rate),
            "cpu_to_stock": ratio(self.worker_us, base.worker_us),
            "calls": sum(it.window.calls for it in self.rounds),
        }


def _client_us(window: Window) -> float:
    return window.client_cpu_seconds / max(window.calls, 1) * 1e6


def start_stock(bench: Bench, name: str, *pool: str) -> Plane:
    """Start a stock worker."""
    desk = bench.desk(name.replace(", ", "-").replace(" ", "-"))
    redis = Redis(desk)
    tally = desk.folder / "executions"
    env = {"BENCH_REDIS": redis.celery_url, "BENCH_TALLY": str(tally), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "celery", "--app", "benchmarks.stock_app", "--quiet", "worker"]
    desk.spawn("worker1", [*command, *_FLAGS, *pool], env=env, cwd=REPOSITORY)
    return Plane(
        name=name,
        desk=desk,
        redis=redis,
        load=QueueLoad(address=redis.address, dialect=stock()),
        tally=tally,
    )


def start_echo(bench: Bench, name: str) -> Plane:
    """Start the product's worker with its tools taken out."""
    desk = bench.desk(name.replace(", ", "-").replace(" ", "-"))
    tally = desk.folder / "executions"
    stack = Stack(desk, {})
    env = {"BENCH_TALLY": str(tally)}
    stack.start_worker(*_FLAGS, "--concurrency", str(LIMIT), app="benchmarks.echo_app", env=env)
    return _plane_of(name, stack, tally)


def start_stdio(bench: Bench, name: str) -> Plane:
    """Start the product's worker with the trivial tool as its child."""
    desk = bench.desk(name.replace(", ", "-").replace(" ", "-"))
    stack = Stack(desk, {TOOL: stdio_tool(desk)})
    stack.start_worker(*_FLAGS, "--concurrency", str(LIMIT))
    stack.publish_tools()
    stack.wait_discovered()
    return _plane_of(name, stack, desk.folder / Transport.STDIO)


def _plane_of(name: str, stack: Stack, tally: Path) -> Plane:
    load = QueueLoad(address=stack.redis.address, dialect=gateway(stack.keys), keys=stack.keys)
    return Plane(name=name, desk=stack.desk, redis=stack.redis, load=load, tally=tally)


def start_all(bench: Bench) -> list[Plane]:
    """Start every worker that is compared."""
    return [
        start_stock(bench, STOCK, "--pool", "threads", "--concurrency", str(THREADS)),
        start_stock(bench, "stock, prefork", "--pool", "prefork", "--concurrency", "2"),
        start_echo(bench, OURS),
        start_stdio(bench, f"{OURS}, stdio tool"),
    ]


async def wait_serving(plane: Plane) -> None:
    """Call until a call is answered, and see that the worker tells the world of it.

    Raises:
        StartError: there is no answer, or there are no events.
    """
    async with plane.load.open(1) as runner:
        for _ in range(3):
            if (await runner.run(0.2)).latencies:
                break
        else:
            raise StartError(f"{plane.name} answers nothing")
        with connect(plane.redis.address) as client, client.pubsub() as events:
            events.psubscribe("/*.celeryev/task*")
            await runner.run(0.2)
            end = time.monotonic() + EVENTS_WITHIN
            while time.monotonic() < end:
                message = events.get_message(ignore_subscribe_messages=True, timeout=0.1)
                if message is not None:
                    return
    raise StartError(f"{plane.name} sends no task events")


async def measure_round(plane: Plane, concurrency: int, seconds: float) -> Round:
    """Measure one window."""
    async with plane.load.open(concurrency) as runner:
        warm = await runner.run(WARM_UP)
        cpu, executed = plane.desk.cpu_by_part(), total(plane.tally).calls
        window = await runner.run(seconds)
        used, ran = plane.desk.cpu_by_part(), total(plane.tally).calls - executed
    errors = warm.errors + window.errors
    if ran != window.calls:
        errors[f"{plane.name}: {ran} executions for {window.calls} calls"] += 1
    calls = max(window.calls, 1)
    return Round(
        window=window,
        worker_us=(used[Part.WORKER] - cpu[Part.WORKER]) / calls * 1e6,
        redis_us=(used[Part.REDIS] - cpu[Part.REDIS]) / calls * 1e6,
        errors=errors,
    )


def left_behind(plane: Plane) -> dict[str, int]:
    """Return what is still in Redis although every call was answered: messages queued, or not acknowledged."""
    with connect(plane.redis.address) as client:
        hashes = [key for pattern in ("unacked", "*:unacked:*") for key in client.scan_iter(pattern)]
        held = sum(int(client.hlen(key)) for key in hashes)
        return {"queued": int(client.llen(QUEUE)), "unacknowledged": held}


async def measure(options: Options, bench: Bench) -> Outcome:
    """Measure everything."""
    outcome = Outcome()
    planes = start_all(bench)
    for plane in planes:
        await wait_serving(plane)
    concurrencies = (GOAL_CONCURRENCY,) if options.smoke else CONCURRENCY
    cells = {(it.name, c): Cell(name=it.name, concurrency=c) for c in concurrencies for it in planes}
    for number in range(options.rounds):
        for concurrency in concurrencies:
            for plane in rotated(planes, number):
                cell = cells[plane.name, concurrency]
                cell.rounds.append(await measure_round(plane, concurrency, options.seconds))
                outcome.errors += cell.rounds[-1].errors
                _tell(cell, number)
    await asyncio.sleep(1.0)  # acknowledgements may follow the replies
    for plane in planes:
        for what, count in left_behind(plane).items():
            outcome.errors[f"{plane.name}: left {what}"] += count
    outcome.errors = +outcome.errors
    outcome.rows = [cell.row(cells[STOCK, cell.concurrency]) for cell in cells.values()]
    outcome.goals = goals(cells[OURS, GOAL_CONCURRENCY], cells[STOCK, GOAL_CONCURRENCY])
    return outcome


def _tell(cell: Cell, number: int) -> None:
    last = cell.rounds[-1]
    print(
        f"round {number + 1} c={cell.concurrency:<3} {cell.name:22} {last.window.rps:9.1f} tasks/s, "
        f"worker {last.worker_us:.0f} us, Redis {last.redis_us:.0f} us a task, {last.errors.total()} errors",
        flush=True,
    )


def goals(ours: Cell, base: Cell) -> list[Goal]:
    """Hold the engine against stock Celery."""
    return [
        Goal(
            text=f"throughput to stock Celery at c = {GOAL_CONCURRENCY}, events on",
            wanted=30,
            measured=ratio(ours.rate, base.rate),
            at_least=True,
        ),
        Goal(
            text=f"worker CPU a task to stock Celery at c = {GOAL_CONCURRENCY}, events on",
            wanted=0.05,
            measured=ratio(ours.worker_us, base.worker_us),
        ),
    ]


SCRIPT = Script(
    name="data_plane",
    about="the worker and its queue alone, beside stock Celery, events on",
    columns={
        "worker": "worker",
        "c": "c",
        "rate": "tasks/s",
        "p50_ms": "p50 ms",
        "p99_ms": "p99 ms",
        "worker_us": "worker us",
        "redis_us": "Redis us",
        "client_us": "client us",
        "rate_to_stock": "rate to stock",
        "cpu_to_stock": "CPU to stock",
    },
    measure=measure,
    rounds=2,
    seconds=3.0,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
