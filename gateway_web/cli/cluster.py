"""``canalgate queues`` and ``workers``: what waits where, and who takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway_web.cli.connection import control
from gateway_web.cli.output import say_json, say_table

QUEUES = ("queue", "waiting", "for owners", "in flight", "oldest", "taken/s")
WORKERS = ("worker", "lease", "sessions", "calls")
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def queues(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the tools' queues: what waits, for how long, how fast it is served."""
    found = control(config).ask("GET", "/queues").body["items"]
    if as_json:
        say_json(found)
        return
    say_table(QUEUES, [_queue(queue) for queue in found])


def workers(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the workers and what each holds; one whose lease has ended counts as dead."""
    found = control(config).ask("GET", "/workers").body["items"]
    if as_json:
        say_json(found)
        return
    say_table(WORKERS, [worker_cells(worker) for worker in found])


def worker_cells(worker: dict[str, Any]) -> tuple[str, ...]:
    """A worker as a line, in the order of :data:`WORKERS`."""
    lease = f"{worker['lease']:.0f} s" if worker["lease"] else "ended"
    return worker["node"], lease, str(worker["sessions"]), str(worker["calls"])


def age(queue: dict[str, Any]) -> str:
    """How long the oldest waits, empty if nothing does."""
    return "" if queue["age"] is None else f"{queue['age']:.1f} s"


def _queue(queue: dict[str, Any]) -> tuple[str, ...]:
    return (
        queue["queue"],
        *(str(queue[name]) for name in ("waiting", "waiting_direct", "in_flight")),
        age(queue),
        f"{queue['drained']:.1f}",
    )
