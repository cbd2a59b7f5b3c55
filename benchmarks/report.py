"""The table, for a terminal and for the documentation. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import earlier
from benchmarks.goals import whole_loop
from benchmarks.parts import PARTS_OF_A_CALL
from benchmarks.targets import GATEWAY

Row = dict[str, Any]
_HEAD = ("target", "c", "calls/s", "p50 ms", "p99 ms", "CPU ms/call", "errors", f"calls/s to {GATEWAY}")
_OWN_HEAD = (
    "backend over",
    "c",
    "p50 ms",
    "p50 over direct, ms",
    "p99 / p50",
    *(f"{part} us" for part in PARTS_OF_A_CALL),
    "together us",
)
_TRANSPORTS = {"stdio": "Backend over stdio", "http": "Backend over Streamable HTTP"}


def table(rows: Sequence[Row], transport: str) -> list[tuple[str, ...]]:
    """Return head and lines for one transport, by concurrency, the order of targets kept."""
    chosen = [row for row in rows if row["transport"] == transport]
    base = {row["concurrency"]: row["rps"] for row in chosen if row["name"] == GATEWAY}
    ordered = sorted(chosen, key=lambda row: row["concurrency"])
    return [_HEAD, *(_line(row, base.get(row["concurrency"])) for row in ordered)]


def _line(row: Row, base: float | None) -> tuple[str, ...]:
    label = row["name"] if row["version"] == "-" else f"{row['name']} {row['version']}"
    figures = [figure(row[key]) for key in ("rps", "p50_ms", "p99_ms", "cpu_ms_per_call")]
    ratio = f"{row['rps'] / base:.2f}x" if base and row["rps"] is not None else "-"
    return (label, str(row["concurrency"]), *figures, str(row["errors"]), ratio)


def own_table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return head and lines of what a call through the gateway consists of."""
    direct = {
        (row["transport"], row["concurrency"]): row["p50_ms"] for row in rows if row["name"] == "direct"
    }
    own = [row for row in rows if row["name"] == GATEWAY]
    return [_OWN_HEAD, *(_own_line(row, direct.get((row["transport"], row["concurrency"]))) for row in own)]


def _own_line(row: Row, direct_p50: float | None) -> tuple[str, ...]:
    p50, p99 = row["p50_ms"], row["p99_ms"]
    added = None if p50 is None or direct_p50 is None else p50 - direct_p50
    tail = None if not p50 or p99 is None else p99 / p50
    parts = [row.get(f"{part}_cpu_us_per_call") for part in PARTS_OF_A_CALL]
    known = [part for part in parts if part is not None]
    figures = [p50, added, tail, *parts, sum(known) if known else None]
    return (row["transport"], str(row["concurrency"]), *(figure(value) for value in figures))


def figure(value: float | None) -> str:
    """Return a figure with about three significant digits, "-" for none."""
    if value is None:
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def goal_lines(goals: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each goal as it stands in a result file; one that is missed is marked."""
    return [
        f"{goal['goal']}: {figure(goal['measured'])} "
        f"(wanted: {'at least' if goal['at_least'] else 'at most'} {goal['wanted']:g})"
        + ("" if goal["reached"] else ", MISSED")
        for goal in goals
    ]


def whole_loop_lines(rows: Sequence[Row]) -> list[str]:
    """Return one line for each goal of the whole loop that these rows can be held against."""
    return goal_lines(goal.row() for goal in whole_loop(rows))


def plain(rows: Sequence[Row]) -> str:
    """Return the tables for a terminal, with whatever went wrong below them."""
    parts = []
    for transport, title in _TRANSPORTS.items():
        lines = table(rows, transport)
        if len(lines) > 1:
            parts.append(f"{title}\n{plain_table(lines)}")
    if len(own := own_table(rows)) > 1:
        parts.append(f"A call through {GATEWAY}\n{plain_table(own)}")
    if goals := whole_loop_lines(rows):
        parts.append("Goals\n" + "\n".join(goals))
    if beside := earlier.lines(rows):
        parts.append("Beside the other checkout\n" + "\n".join(beside))
    parts += _error_notes(rows)
    return "\n\n".join(parts)


def plain_table(lines: Sequence[tuple[str, ...]]) -> str:
    """Return head and lines in columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(_padded(line, widths) for line in lines)


def markdown_table(lines: Sequence[tuple[str, ...]]) -> str:
    """Return head and lines as a Markdown table, figures to the right."""
    head, *others = lines
    rule = ("---", *("---:" for _ in head[1:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *others))


def _padded(line: tuple[str, ...], widths: Sequence[int]) -> str:
    first, *others = zip(line, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])


def _error_notes(rows: Iterable[Row]) -> list[str]:
    notes = [
        f"{row['name']} {row['transport']} c={row['concurrency']}: {count} x {kind}"
        for row in rows
        for kind, count in row["error_kinds"].items()
    ]
    return ["Errors\n" + "\n".join(notes)] if notes else []


def markdown(rows: Sequence[Row], *, level: int = 3) -> str:
    """Return the tables for the documentation, under headings of that level."""
    parts, mark = [], "#" * level
    for transport, title in _TRANSPORTS.items():
        lines = table(rows, transport)
        if len(lines) > 1:
            parts.append(f"{mark} {title}\n\n{markdown_table(lines)}")
    if len(own := own_table(rows)) > 1:
        parts.append(f"{mark} What a call through Canalgate consists of\n\n{markdown_table(own)}")
    if goals := whole_loop_lines(rows):
        parts.append("The goals:\n\n" + "\n".join(f"- {line}" for line in goals))
    return "\n\n".join([_conditions(rows), *parts, _setups(rows)])


def _conditions(rows: Sequence[Row]) -> str:
    first = rows[0]
    return (
        f"{first['date']}, {first['machine']}. Backend: {first['backend']}. Era: {first['era']}, "
        f"sessions: {first['sessions']}. Medians of {first['round_count']} interleaved rounds of "
        f"{first['seconds']:g} s. The load client itself used "
        f"{_span(rows, 'client_cpu_ms_per_call')} ms of CPU a call on the same machine."
    )


def _span(rows: Iterable[Row], key: str) -> str:
    values = sorted(row[key] for row in rows if row[key] is not None)
    return f"{values[0]:.2g} to {values[-1]:.2g}" if values else "-"


def _setups(rows: Iterable[Row]) -> str:
    setups = {f"{row['name']} {row['version']}".removesuffix(" -"): row["setup"] for row in rows}
    return "How each was set up:\n\n" + "\n".join(f"- **{name}**: {setup}." for name, setup in setups.items())
