"""Waiting for a tool to be drained, and showing what it still has: a bar at a terminal, else a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gateway_web.cli.control import ControlClient, at
from gateway_web.cli.output import err, printable, remark

STEP = 1.0
"""Seconds that one question waits for an answer that has changed."""
Left = Mapping[str, Any]


def drained(plane: ControlClient, tool: str, wait: float) -> bool:
    """Whether nothing is left of a tool before ``wait`` seconds are over."""
    end = time.monotonic() + wait
    with _shown(tool) as show:
        while True:
            step = max(0.0, min(STEP, end - time.monotonic()))
            left = plane.ask("GET", at("tools", tool, "drain"), query={"wait": step}).body
            show(left)
            if left["drained"] or time.monotonic() >= end:
                return bool(left["drained"])


@contextmanager
def _shown(tool: str) -> Iterator[Callable[[Left], None]]:
    if not err.is_terminal:
        yield _lines(tool)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(printable(tool), total=None)
        most = 0

        def show(left: Left) -> None:
            nonlocal most
            rest = _rest(left)
            most = max(most, rest)
            progress.update(
                task,
                total=most or 1,
                completed=most - rest,
                description=printable(f"{tool}: {_told(left)}"),
            )

        yield show


def _lines(tool: str) -> Callable[[Left], None]:
    last = ""

    def show(left: Left) -> None:
        nonlocal last
        told = _told(left)
        if told != last:
            remark(f"{tool}: {told}")
        last = told

    return show


def _rest(left: Left) -> int:
    return int(left["sessions"] + left["waiting"] + left["in_flight"])


def _told(left: Left) -> str:
    return f"{left['sessions']} sessions, {left['waiting']} calls waiting, {left['in_flight']} in flight"
