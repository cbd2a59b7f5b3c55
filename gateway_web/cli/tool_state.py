"""The verbs of ``canalgate tools`` that an operator says to a running tool: switch, drain, circuit.

Each is audited under the name of the user. Said twice it is no error: the second time it is so already.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gateway_web.cli.completion import ToolArgument
from gateway_web.cli.connection import control
from gateway_web.cli.control import Reply, at
from gateway_web.cli.draining import drained
from gateway_web.cli.output import Exit, errors_as_exit_codes, remark, say

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]


def enable(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Let a tool be called, whatever the settings file says. A drain goes on."""
    plane = control(config)
    _say(f"{tool} is enabled", plane.ask("POST", at("tools", tool, "enable")))
    if plane.ask("GET", at("tools", tool)).body["draining"]:
        remark(
            f"note: {tool} is still draining and takes no new sessions: `canalgate tools undrain {tool}` ends that"
        )


def disable(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Refuse new calls of a tool; calls under way end, its sessions stay."""
    _say(f"{tool} is disabled", control(config).ask("POST", at("tools", tool, "disable")))


def drain(
    tool: ToolArgument,
    config: ConfigOption = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", min=0, help="Wait at most so many seconds until nothing is left of it."),
    ] = None,
) -> None:
    """Let a tool take no new sessions; those that live go on. With --wait: exit code 1 if not drained in time."""
    plane = control(config)
    _say(f"{tool} is draining", plane.ask("POST", at("tools", tool, "drain")))
    if wait is None:
        return
    if not drained(plane, tool, wait):
        remark(f"{tool} is not drained after {wait:g} s")
        raise typer.Exit(Exit.FAILED)
    say(f"{tool} is drained")


def undrain(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Let a tool take new sessions again."""
    _say(f"{tool} takes new sessions", control(config).ask("POST", at("tools", tool, "undrain")))


def reset(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Close a tool's circuit and forget its failures."""
    _say(
        f"the circuit of {tool} is closed", control(config).ask("POST", at("tools", tool, "circuit", "reset"))
    )


def trip(
    tool: ToolArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for other operators.")],
    config: ConfigOption = None,
) -> None:
    """Open a tool's circuit: all its calls are refused until it is reset."""
    done = control(config).ask("POST", at("tools", tool, "circuit", "trip"), body={"reason": reason})
    already = "" if done.body["changed"] else " already; the reason is noted"
    say(f"the circuit of {tool} is tripped{already}")


def add_verbs(cli: typer.Typer) -> None:
    """Give these verbs to the group ``tools``."""
    verbs: tuple[Callable[..., None], ...] = (enable, disable, drain, undrain)
    for verb in verbs:
        cli.command(verb.__name__)(errors_as_exit_codes(verb))
    circuit = typer.Typer(help="Open and close the circuit of a tool by hand.", no_args_is_help=True)
    for verb in (reset, trip):
        circuit.command(verb.__name__)(errors_as_exit_codes(verb))
    cli.add_typer(circuit, name="circuit")


def _say(sentence: str, done: Reply) -> None:
    say(sentence if done.body["changed"] else f"{sentence} already")
