"""What the scripts of one question each have in common: options, result file, tables, verdict.

Such a script measures rows, holds some of them against a goal, and knows what must hold if it measured at all what
its name says. The result goes to ``build/bench-<name>.json``, and from there into the documentation.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import orjson
import psutil

from benchmarks.desk import BackendKind, Desk
from benchmarks.goals import Goal, Row
from benchmarks.processes import StartError
from benchmarks.report import figure, goal_lines, markdown_table, plain_table
from benchmarks.targets import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "benchmarks.md"
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a script measured. ``errors`` is whatever makes a figure untrue."""

    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How long to measure. ``smoke`` asks only whether the script works: one short round of little load."""

    rounds: int
    seconds: float
    smoke: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One script. ``columns`` maps the keys of a row to the heads of the table."""

    name: str
    about: str
    columns: Mapping[str, str]
    measure: Callable[[Options, Bench], Coroutine[Any, Any, Outcome]]
    rounds: int
    seconds: float

    @property
    def file(self) -> Path:
        """Where the result goes, and where the documentation's table comes from."""
        return REPOSITORY / "build" / f"bench-{self.name}.json"


class Bench:
    """Hands out desks, and clears them all in the end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def desk(self, name: str) -> Desk:
        """Return a new working place."""
        desk = Desk(self._folder / name, cache=REPOSITORY / ".cache" / "bench", backend=BackendKind.FAST)
        self._stack.callback(desk.clear)
        return desk


@contextmanager
def _bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        yield Bench(Path(folder), stack)


def rotated(things: Sequence[T], by: int) -> list[T]:
    """Return ``things`` from the ``by``-th on, then those before it."""
    by %= max(len(things), 1)
    return [*things[by:], *things[:by]]


def document_of(script: Script, options: Options, outcome: Outcome) -> dict[str, Any]:
    """Return the result file."""
    return {
        "benchmark": script.name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{psutil.cpu_count()} cores, Python {sys.version.split()[0]}",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "smoke": options.smoke,
        "rows": outcome.rows,
        "goals": [goal.row() for goal in outcome.goals],
        "errors": dict(outcome.errors),
    }


def table(script: Script, document: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return head and lines."""
    lines = [tuple(_cell(row.get(key)) for key in script.columns) for row in document["rows"]]
    return [tuple(script.columns.values()), *lines]


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else figure(value)


def plain(script: Script, document: Mapping[str, Any]) -> str:
    """Return everything for a terminal."""
    errors = [f"ERROR {count} x {kind}" for kind, count in document["errors"].items()]
    return "\n".join([plain_table(table(script, document)), *goal_lines(document["goals"]), *errors])


def markdown(script: Script, document: Mapping[str, Any]) -> str:
    """Return the section's figures for the documentation."""
    conditions = (
        f"{document['date']}, {document['machine']}. "
        f"Medians of {document['rounds']} interleaved rounds of {document['seconds']:g} s."
    )
    goals = "\n".join(f"- {line}" for line in goal_lines(document["goals"]))
    return "\n\n".join(part for part in (conditions, markdown_table(table(script, document)), goals) if part)


def paste(name: str, figures: str, file: Path = DOCUMENT) -> None:
    """Put the figures into the documentation, between the marks that name the script.

    Raises:
        ValueError: the marks are not there.
    """
    text = file.read_text(encoding="utf-8")
    begin, end = f"<!-- generated: bench {name} -->\n", f"<!-- end: bench {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{file} has no place for {name}: {begin.strip()} ... {end}")
    file.write_text(f"{before}{begin}\n{figures}\n\n{end}{after}", encoding="utf-8")


def parse(script: Script, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; ``--smoke`` overrides what it must."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{script.name}", description=script.about)
    parser.add_argument("--rounds", type=int, default=script.rounds)
    parser.add_argument("--seconds", type=float, default=script.seconds, help="of load, in each round")
    parser.add_argument("--smoke", action="store_true", help="one short round: does it work at all")
    parser.add_argument("--output", type=Path, help="result file; otherwise in build/")
    parser.add_argument("--markdown", action="store_true", help="print the last result for the documentation")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.rounds, options.seconds = 1, min(1.0, script.seconds)
    smoke_file = script.file.with_name(f"{script.file.stem}-smoke.json")
    options.output = options.output or (smoke_file if options.smoke else script.file)
    return options


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(143)


def run(script: Script, options: Options) -> dict[str, Any]:
    """Measure; everything that was started has ended on return. Return the result file.

    Raises:
        StartError: something did not start.
    """
    print(f"\n{script.name}: {script.about}", flush=True)
    with _bench() as bench:
        outcome = asyncio.run(script.measure(options, bench))
    return document_of(script, options, outcome)


def main(script: Script, arguments: Sequence[str] | None = None) -> int:
    """Run a script; return the exit code: 0 only if it measured what it names, without an error.

    A goal that is missed is said, and is no error: that is for the reader to judge on a machine he knows.
    """
    chosen = parse(script, arguments)
    if chosen.markdown:
        if not chosen.output.is_file():
            print(f"{chosen.output} does not exist: run the benchmark first", file=sys.stderr)
            return 1
        print(markdown(script, orjson.loads(chosen.output.read_bytes())))
        return 0
    signal.signal(signal.SIGTERM, _terminate)
    options = Options(rounds=chosen.rounds, seconds=chosen.seconds, smoke=chosen.smoke)
    try:
        document = run(script, options)
    except StartError as error:
        print(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; everything that was started has ended")
        return 130
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    print(f"\n{plain(script, document)}\n\nwritten to {chosen.output}")
    return 1 if document["errors"] or not document["rows"] else 0
