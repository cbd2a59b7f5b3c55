"""The verbs of ``canalgate tools`` that an operator says to a running tool: switch, drain, circuit.

Each is audited under the name of the user. Said twice it is no error: the second time it is so already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from common.domain.ids import ToolId
from common.domain.tool_status import StateChange
from common.registry.lifecycle import DrainProgress, Lifecycle
from gateway_web.cli.output import Exit, err, errors_as_exit_codes, out
from gateway_web.cli.where import Store, store

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
ToolArgument = Annotated[str, typer.Argument(help="Id of the tool.")]


def enable(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Let a tool be called, whatever the settings file says. A drain goes on."""
    where = store(config)
    change = _lifecycle(where).enable(ToolId(tool), actor=where.actor)
    _say(f"{tool} is enabled", change)
    if change.after.draining:
        err.print(
            f"note: {tool} is still draining and takes no new sessions: `canalgate tools undrain {tool}` ends that",
            markup=False,
        )


def disable(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Refuse new calls of a tool; calls under way end, its sessions stay."""
    where = store(config)
    change = _lifecycle(where).disable(ToolId(tool), actor=where.actor)
    _say(f"{tool} is disabled", change)


def drain(
    tool: ToolArgument,
    config: ConfigOption = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", min=0, help="Wait at most so many seconds until nothing is left of it."),
    ] = None,
) -> None:
    """Let a tool take no new sessions; those that live go on. With --wait: exit code 1 if not drained in time."""
    where = store(config)
    lifecycle = _lifecycle(where)
    _say(f"{tool} is draining", lifecycle.drain(ToolId(tool), actor=where.actor))
    if wait is None:
        return
    left = lifecycle.wait_drained(
        ToolId(tool), wait, watch=lambda progress: err.print(f"{tool}: {_left(progress)}", markup=False)
    )
    if not left.done:
        err.print(f"{tool} is not drained after {wait:g} s", markup=False)
        raise typer.Exit(Exit.FAILED)
    out.print(f"{tool} is drained", markup=False)


def undrain(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Let a tool take new sessions again."""
    where = store(config)
    change = _lifecycle(where).undrain(ToolId(tool), actor=where.actor)
    _say(f"{tool} takes new sessions", change)


def reset(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Close a tool's circuit and forget its failures."""
    where = store(config)
    change = _lifecycle(where).reset_circuit(ToolId(tool), actor=where.actor)
    already = " already" if change is None else ""
    out.print(f"the circuit of {tool} is closed{already}", markup=False)


def trip(
    tool: ToolArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for other operators.")],
    config: ConfigOption = None,
) -> None:
    """Open a tool's circuit: all its calls are refused until it is reset."""
    where = store(config)
    change = _lifecycle(where).trip_circuit(ToolId(tool), reason, actor=where.actor)
    already = " already; the reason is noted" if change is None else ""
    out.print(f"the circuit of {tool} is tripped{already}", markup=False)


def add_verbs(cli: typer.Typer) -> None:
    """Give these verbs to the group ``tools``."""
    verbs: tuple[Callable[..., None], ...] = (enable, disable, drain, undrain)
    for verb in verbs:
        cli.command(verb.__name__)(errors_as_exit_codes(verb))
    circuit = typer.Typer(help="Open and close the circuit of a tool by hand.", no_args_is_help=True)
    for verb in (reset, trip):
        circuit.command(verb.__name__)(errors_as_exit_codes(verb))
    cli.add_typer(circuit, name="circuit")


def _lifecycle(where: Store) -> Lifecycle:
    return Lifecycle(where.client, where.keys)


def _say(sentence: str, change: StateChange) -> None:
    out.print(sentence if change.changed else f"{sentence} already", markup=False)


def _left(progress: DrainProgress) -> str:
    return f"{progress.sessions} sessions, {progress.waiting} calls waiting, {progress.in_flight} in flight"
