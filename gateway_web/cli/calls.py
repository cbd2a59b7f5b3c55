"""``canalgate calls``: the calls that wait or run now, and taking one back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway_web.cli.completion import tool_ids
from gateway_web.cli.connection import control
from gateway_web.cli.control import at, items
from gateway_web.cli.output import errors_as_exit_codes, say, say_json, say_table

COLUMNS = ("id", "tool", "state", "tenant", "client", "method", "node", "age", "left")
cli = typer.Typer(help="List the calls that wait or run, and cancel one.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]


@cli.command("list")
@errors_as_exit_codes
def list_calls(
    tool: Annotated[
        str | None, typer.Option("--tool", help="Only those of this tool.", autocompletion=tool_ids)
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")] = None,
    client: Annotated[str | None, typer.Option("--client", help="Only those of this client.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="waiting or running.")] = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """List the calls that wait for a worker, or that one has. Arguments are never shown."""
    query = {"tool": tool, "tenant": tenant, "client": client, "state": state}
    found = items(control(config), "/calls", query=query)
    if as_json:
        say_json(found)
        return
    say_table(COLUMNS, [_cells(call) for call in found])


@cli.command("cancel")
@errors_as_exit_codes
def cancel(
    call: Annotated[str, typer.Argument(metavar="ID", help="As `calls list` shows it.")],
    config: ConfigOption = None,
) -> None:
    """Take a call back, whoever waits for it: it ends with INVOCATION_CANCELLED."""
    done = control(config).ask("DELETE", at("calls", call)).body
    say(f"call {done['id']} of {done['tool']} is taken back")


def _cells(call: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(call["id"], call["tool"], call["state"], call["tenant"], call["client"], call["method"]),
        *(call["node"], f"{call['age']:.1f} s", f"{call['left']:.1f} s"),
    )
