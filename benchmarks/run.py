"""``python -m benchmarks.run``: the same load on the backend, the gateway and its peers."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import orjson
import psutil
import yaml

from benchmarks import report
from benchmarks.cells import Cell, Served, measure_round
from benchmarks.desk import BackendKind, Desk, Transport
from benchmarks.goals import whole_loop
from benchmarks.http1 import BadHttpError
from benchmarks.install import UnavailableError
from benchmarks.load import HttpLoad, Load, SessionMode
from benchmarks.peers import peer_targets
from benchmarks.processes import StartError
from benchmarks.stdio_load import StdioLoad
from benchmarks.targets import GATEWAY, REPOSITORY, Access, Pipe, Target, earlier, own_targets
from benchmarks.wire import BadAnswerError, Era

BUILD = REPOSITORY / "build"
SMOKE_FILE = BUILD / "bench-smoke.json"
PROBE_TIMEOUT = 20.0  # seconds


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; ``--smoke`` overrides what it must."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--concurrency", type=_numbers, default=[1, 16, 64, 256], help="e.g. 1,16,64,256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, in each round of each cell")
    parser.add_argument("--transports", type=_transports, default=list(Transport), help="stdio,http")
    parser.add_argument("--backend", type=BackendKind, choices=list(BackendKind), default=BackendKind.FAST)
    parser.add_argument("--era", type=Era, choices=list(Era), default=Era.LEGACY)
    parser.add_argument("--sessions", type=SessionMode, choices=list(SessionMode), default=SessionMode.SHARED)
    parser.add_argument(
        "--peers", type=lambda text: text.split(","), help="only these, e.g. fastmcp,contextforge"
    )
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--against", type=_checkout, help="another checkout of the gateway, in the same rounds"
    )
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        help="of the gateway itself, e.g. audit.calls=false",
    )
    parser.add_argument("--smoke", action="store_true", help="one round of 1 s at 1 and 16, no peers")
    parser.add_argument(
        "--markdown", action="store_true", help="print the documentation's table from the last run"
    )
    parser.add_argument("--output", type=Path, help="result file; otherwise in build/")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.rounds, options.seconds, options.concurrency, options.no_peers = 1, 1.0, [1, 16], True
    options.output = options.output or (SMOKE_FILE if options.smoke else result_file(options.backend))
    unknown = set(options.peers or ()) - {target.name for target in peer_targets()}
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {_names(peer_targets())}")
    return options


def result_file(backend: BackendKind) -> Path:
    """Return where the result goes: each backend has a table of its own."""
    return BUILD / ("bench.json" if backend is BackendKind.FAST else f"bench-{backend}.json")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _transports(text: str) -> list[Transport]:
    return [Transport(part) for part in text.split(",")]


def _setting(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.partition("=")
    if not equals or "." not in name:
        raise argparse.ArgumentTypeError(f"{text} is no section.key=value")
    return name.split("."), yaml.safe_load(value)


def nested(given: Iterable[tuple[Sequence[str], Any]]) -> dict[str, Any]:
    """Settings by their dotted names, as the file of settings has them."""
    found: dict[str, Any] = {}
    for (*sections, key), value in given:
        section = found
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return found


def _checkout(text: str) -> Path:
    tree = Path(text).resolve()
    if not (tree / "gateway_web").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of {GATEWAY}")
    return tree


def _names(targets: Sequence[Target]) -> str:
    return ", ".join(target.name for target in targets)


def chosen_targets(options: argparse.Namespace) -> list[Target]:
    """Return what the command line asks for."""
    peers = [] if options.no_peers else peer_targets()
    before = [] if options.against is None else [earlier(options.against)]
    return [
        *own_targets(nested(options.set)),
        *before,
        *(it for it in peers if options.peers is None or it.name in options.peers),
    ]


def start(target: Target, desk: Desk, options: argparse.Namespace) -> Served:
    """Start a target and make one call over each transport.

    Raises:
        UnavailableError, StartError: it cannot be measured here.
    """
    if options.era not in target.eras:
        raise UnavailableError(f"does not speak the {options.era} era")
    accesses = {at: access for at, access in target.start(desk).items() if at in options.transports}
    loads = {at: _load(access, options) for at, access in accesses.items()}
    for transport, load in loads.items():
        if isinstance(load, HttpLoad):
            asyncio.run(_probe(load, f"{target.name} over {transport}"))
    return Served(target=target, desk=desk, loads=loads)


def _load(access: Access, options: argparse.Namespace) -> Load:
    if isinstance(access, Pipe):
        return StdioLoad(access.command, era=options.era)
    return HttpLoad(access, era=options.era, mode=options.sessions)


async def _probe(load: HttpLoad, description: str) -> None:
    """Call until the echo comes: some peers listen before they can serve."""
    end = time.monotonic() + PROBE_TIMEOUT
    while True:
        try:
            return await load.probe()
        except (BadHttpError, BadAnswerError) as error:
            if time.monotonic() > end:
                raise StartError(f"{description} does not answer its echo: {error}") from error
            await asyncio.sleep(0.2)


@contextmanager
def started(targets: Sequence[Target], options: argparse.Namespace, work: Path) -> Iterator[list[Served]]:
    """Start all targets that can be, name those that cannot; end everything on leaving, whatever happened."""
    served: list[Served] = []
    with ExitStack() as stack:
        for target in targets:
            desk = Desk(work / target.name, cache=REPOSITORY / ".cache" / "bench", backend=options.backend)
            stack.callback(desk.clear)
            print(f"starting {target.name} {target.version}", flush=True)
            try:
                served.append(start(target, desk, options))
            except (UnavailableError, StartError) as error:
                print(f"\nSKIPPED {target.name} {target.version}: {error}\n", flush=True)
                desk.clear()
        yield served


async def measure(served: Sequence[Served], options: argparse.Namespace) -> list[Cell]:
    """Measure all cells in interleaved rounds, so that a busy minute of the machine falls on all alike."""
    cells: dict[tuple[str, Transport, int], Cell] = {}
    for number in range(options.rounds):
        for transport in options.transports:
            for concurrency in options.concurrency:
                for it in _rotated(served, number):
                    if transport not in it.loads:
                        continue
                    key = (it.target.name, transport, concurrency)
                    empty = Cell(target=it.target, transport=transport, concurrency=concurrency)
                    cell = cells.setdefault(key, empty)
                    cell.rounds.append(await measure_round(it, transport, concurrency, options.seconds))
                    _tell(cell, number, options.rounds)
    order = [it.target.name for it in served]
    return sorted(cells.values(), key=lambda cell: order.index(cell.target.name))


def _rotated(served: Sequence[Served], by: int) -> list[Served]:
    by %= max(len(served), 1)
    return [*served[by:], *served[:by]]


def _tell(cell: Cell, number: int, rounds: int) -> None:
    last = cell.rounds[-1]
    print(
        f"round {number + 1}/{rounds} {cell.transport:5} c={cell.concurrency:<3} {cell.target.name:14} "
        f"{last.rps:9.1f} calls/s, p50 {last.p50_ms:.2f} ms, {last.target_cpu_ms:.3f} ms CPU a call, "
        f"{last.calls} calls, {last.backend_calls} at the backend, {last.errors.total()} errors",
        flush=True,
    )


def rows_of(cells: Sequence[Cell], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of the result file."""
    shared = {
        "backend": str(options.backend),
        "era": str(options.era),
        "sessions": str(options.sessions) if options.era is Era.LEGACY else "none",
        "seconds": options.seconds,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{psutil.cpu_count()} cores, Python {sys.version.split()[0]}",
    }
    return [cell.row({**shared, "setup": cell.target.setup}) for cell in cells]


def verdict(rows: Sequence[dict[str, Any]]) -> int:
    """Return the exit code: 0 only if the gateway was measured and made no error."""
    own = [row for row in rows if row["name"] == GATEWAY]
    if not own:
        print(f"FAILED: {GATEWAY} was not measured")
        return 1
    errors = sum(row["errors"] for row in own)
    if errors:
        print(f"FAILED: {GATEWAY} made {errors} errors")
    return 1 if errors else 0


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Start, measure and end everything; return the rows."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        started(chosen_targets(options), options, Path(folder)) as served,
    ):
        return rows_of(asyncio.run(measure(served, options)), options)


def print_markdown(file: Path) -> int:
    """Print the documentation's table from a result file; return the exit code."""
    if not file.is_file():
        print(f"{file} does not exist: run the benchmark first", file=sys.stderr)
        return 1
    print(report.markdown(orjson.loads(file.read_bytes())["rows"]))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    options = parse(arguments)
    if options.markdown:
        return print_markdown(options.output)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        rows = run(options)
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was started has ended")
        return 130
    if not rows:
        print("FAILED: nothing was measured")
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"rows": rows, "goals": [goal.row() for goal in whole_loop(rows)]}
    options.output.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    print(f"\n{report.plain(rows)}\n\nwritten to {options.output}")
    return verdict(rows)


if __name__ == "__main__":
    sys.exit(main())
