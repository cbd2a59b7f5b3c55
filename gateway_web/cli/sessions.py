"""``canalgate sessions``: the live tool sessions, whose they are, which worker holds them, and closing one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway_web.cli.completion import tool_ids
from gateway_web.cli.connection import control
from gateway_web.cli.control import at, items
from gateway_web.cli.output import errors_as_exit_codes, say, say_json, say_table

COLUMNS = (
    *("tool", "tenant", "client", "MCP session", "node", "fence"),
    *("age", "idle", "in flight", "pid", "id"),
)
cli = typer.Typer(help="List the live sessions with tools, and close one.", invoke_without_command=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]


@cli.callback()
@errors_as_exit_codes
def list_sessions(
    context: typer.Context,
    tool: Annotated[
        str | None, typer.Option("--tool", help="Only those of this tool.", autocompletion=tool_ids)
    ] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")] = None,
    client: Annotated[str | None, typer.Option("--client", help="Only those of this client.")] = None,
    node: Annotated[str | None, typer.Option("--node", help="Only those that this worker holds.")] = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """List the live sessions with tools: whose each is, which worker holds it, for how long."""
    if context.invoked_subcommand is not None:
        return
    plane = control(config)
    if tool is not None:
        plane.ask("GET", at("tools", tool))  # a name that was misspelt would show none, as if all were well
    query = {"tool": tool, "tenant": tenant, "client": client, "node": node}
    found = items(plane, "/sessions", query=query)
    if as_json:
        say_json(found)
        return
    say_table(COLUMNS, [_cells(session) for session in found])


@cli.command("close")
@errors_as_exit_codes
def close(
    session: Annotated[str, typer.Argument(metavar="ID", help="As `sessions` shows it in its last column.")],
    force: Annotated[  # noqa: FBT002
        bool, typer.Option("--force", help="At once, with the calls that run there.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Close a session when its calls have ended; the next call opens another one."""
    done = control(config).ask("DELETE", at("sessions", session), query={"force": force}).body
    say("closed" if done["closed"] else "will be closed when its calls have ended")


def _cells(session: dict[str, Any]) -> tuple[str, ...]:
    everybody = session["tenant"] is None
    return (
        session["tool"],
        f"(pool, {session['session']})" if everybody else session["tenant"],
        "" if everybody else session["client"] or "",
        session["mcp_session"] or "",
        _known(session["node"]),
        _known(session["fence"]),
        _seconds(session["age"]),
        _seconds(session["idle"]),
        _known(session["in_flight"]),
        "" if session["pid"] is None else str(session["pid"]),
        session["id"],
    )


def _known(value: object) -> str:
    return "?" if value is None else str(value)


def _seconds(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} s"
