"""``canalgate status``: the gateway at one look, once or live."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.domain.errors import InvocationTimeout, StoreUnavailable
from gateway_web.cli.cluster import WORKERS, age, worker_cells
from gateway_web.cli.connection import control
from gateway_web.cli.control import ControlClient, items
from gateway_web.cli.output import Exit, out, printable, say, say_json, say_table, stop
from gateway_web.cli.tool_rows import cells

TOOLS = ("tool", "state", "health", "circuit", "sessions", "in flight", "waiting", "oldest", "taken/s")
Status = dict[str, Any]


def show_status(
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, until Ctrl-C.")] = False,  # noqa: FBT002
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Show tools, circuits, sessions, queues, workers and Redis; exit code 3 if no call could be served."""
    if as_json and watch:
        raise stop("--json and --watch do not go together: call it again and again", Exit.USAGE)
    plane = control(config)
    if watch:
        _watch(plane, interval)
        return
    found = status(plane)
    if as_json:
        say_json(found)
    else:
        say(_headline(found))
        if found["redis"]:
            say_table(WORKERS, [worker_cells(worker) for worker in found["workers"]])
            say_table(TOOLS, [_tool(tool) for tool in found["tools"]])
    if not found["redis"]:
        raise typer.Exit(Exit.UNREACHABLE)
    if not found["ready"]:
        raise typer.Exit(Exit.REFUSED)


def status(plane: ControlClient) -> Status:
    """How everything stands, each part a moment apart; without Redis all lists are empty."""
    found = plane.ask("GET", "/status").body
    told = {name: found[name] for name in ("ready", "missing", "redis", "dead_letters", "version")}
    if not found["redis"]:
        return {**told, "workers": [], "tools": []}
    queues = {queue["tool"]: queue for queue in plane.ask("GET", "/queues").body["items"]}
    tools = [{**tool, "queue": queues[tool["id"]]} for tool in items(plane, "/tools") if tool["id"] in queues]
    return {**told, "workers": plane.ask("GET", "/workers").body["items"], "tools": tools}


def _watch(plane: ControlClient, interval: float) -> None:
    with Live(console=out, screen=out.is_terminal, auto_refresh=False) as live:
        try:
            while True:
                live.update(_look(plane), refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _look(plane: ControlClient) -> RenderableType:
    """The screen; while nobody answers it says so, and the next look may be luckier."""
    try:
        return _screen(status(plane))
    except (StoreUnavailable, InvocationTimeout) as error:
        return Text(printable(error.message))


def _screen(found: Status) -> RenderableType:
    return Group(
        Text(_headline(found)),
        _table(WORKERS, [worker_cells(worker) for worker in found["workers"]]),
        _table(TOOLS, [_tool(tool) for tool in found["tools"]]),
    )


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        # Text: names may hold what would be read as markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _headline(found: Status) -> str:
    word = "ready" if found["ready"] else "not ready: " + ", ".join(found["missing"])
    letters = f"; {found['dead_letters']} dead letters" if found["dead_letters"] else ""
    return f"{word}; Redis {'answers' if found['redis'] else 'is away'}{letters}"


def _tool(tool: dict[str, Any]) -> tuple[str, ...]:
    queue = tool["queue"]
    waiting = str(queue["waiting"] + queue["waiting_direct"])
    return *cells(tool)[:6], waiting, age(queue), f"{queue['drained']:.1f}"
