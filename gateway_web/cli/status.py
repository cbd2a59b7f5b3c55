"""``canalgate status``: the gateway at one look, once or live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.control.cluster import QueueStatus, WorkerStatus
from common.control.status import Status, status, status_to_wire
from common.control.tools import ToolOverview
from gateway_web.cli.output import Exit, out, printable, say_json, say_table, stop
from gateway_web.cli.tool_rows import cells
from gateway_web.cli.where import Store, store

TOOLS = ("tool", "state", "health", "circuit", "sessions", "in flight", "waiting", "oldest", "taken/s")
WORKERS = ("worker", "lease", "sessions", "calls")


def show_status(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, until Ctrl-C.")] = False,  # noqa: FBT002
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show tools, circuits, sessions, queues, workers and Redis; exit code 3 if no call could be served."""
    if as_json and watch:
        raise stop("--json and --watch do not go together: call it again and again", Exit.USAGE)
    where = store(config)
    if watch:
        _watch(where, interval)
        return
    found = status(where.client, where.keys)
    if as_json:
        say_json(status_to_wire(found))
    else:
        out.print(_headline(found), markup=False)
        if found.redis:
            say_table(WORKERS, [_worker(worker) for worker in found.workers])
            say_table(TOOLS, [_tool(tool, queue) for tool, queue in found.tools])
    if not found.redis:
        raise typer.Exit(Exit.UNREACHABLE)
    if not found.ready:
        raise typer.Exit(Exit.REFUSED)


def _watch(where: Store, interval: float) -> None:
    with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                live.update(_screen(status(where.client, where.keys)), refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _screen(found: Status) -> RenderableType:
    return Group(
        Text(_headline(found)),
        _table(WORKERS, [_worker(worker) for worker in found.workers]),
        _table(TOOLS, [_tool(tool, queue) for tool, queue in found.tools]),
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        # Text: names may hold what would be read as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _headline(found: Status) -> str:
    word = "ready" if found.ready else "not ready: " + ", ".join(found.missing)
    letters = f"; {found.dead_letters} dead letters" if found.dead_letters else ""
    return f"{word}; Redis {'answers' if found.redis else 'is away'}{letters}"


def _worker(worker: WorkerStatus) -> tuple[str, ...]:
    lease = f"{worker.lease:.0f} s" if worker.lease else "ended"
    return worker.node, lease, str(worker.sessions), str(worker.calls)


def _tool(tool: ToolOverview, queue: QueueStatus) -> tuple[str, ...]:
    age = "" if queue.age is None else f"{queue.age:.1f} s"
    waiting = str(queue.waiting + queue.waiting_direct)
    return *cells(tool)[:6], waiting, age, f"{queue.drained:.1f}"
