"""``canalgate tools quarantine``: definitions that are not approved."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.mcp.hidden_text import visible
from common.registry.quarantine import KINDS
from gateway_web.cli.completion import ToolArgument
from gateway_web.cli.connection import control
from gateway_web.cli.control import at
from gateway_web.cli.output import errors_as_exit_codes, say, say_json, say_table

cli = typer.Typer(
    help="Definitions that are not the approved ones: list, show, approve, reject.", no_args_is_help=True
)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NameArgument = Annotated[
    str, typer.Argument(help="Name (a resource: URI) as `list` shows it; empty for instructions.")
]
KindOption = Annotated[str, typer.Option("--kind", help=f"One of {', '.join(KINDS)}.")]
DigestOption = Annotated[
    str, typer.Option("--digest", help="Digest that was seen, or its first 12 characters or more.")
]
COLUMNS = ("tool", "kind", "name", "digest", "standing", "withheld", "changed", "since")
SHOWN_DIGEST = 16


@cli.command("list")
@errors_as_exit_codes
def list_waiting(
    tool: Annotated[str | None, typer.Argument(help="Of this tool alone.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List the definitions that nobody has approved."""
    path = "/quarantine" if tool is None else at("tools", tool, "quarantine")
    found = control(config).ask("GET", path).body["items"]
    if as_json:
        say_json(found)
        return
    say_table(COLUMNS, [_cells(waiting) for waiting in found])


@cli.command("show")
@errors_as_exit_codes
def show(
    tool: ToolArgument, name: NameArgument, kind: KindOption = "tools", config: ConfigOption = None
) -> None:
    """Show what differs from the approved definition; hidden characters are written out."""
    query = {"kind": kind, "name": name}
    for line in (
        control(config).ask("GET", at("tools", tool, "quarantine", "diff"), query=query).body["lines"]
    ):
        say(line)


@cli.command("approve")
@errors_as_exit_codes
def approve(
    tool: ToolArgument,
    name: NameArgument,
    digest: DigestOption,
    kind: KindOption = "tools",
    config: ConfigOption = None,
) -> None:
    """Give clients a definition, if it is still the one that was seen."""
    _decide("approve", config, tool, kind, name, digest)
    say(f"{tool}: {visible(name) or kind} approved")


@cli.command("reject")
@errors_as_exit_codes
def reject(
    tool: ToolArgument,
    name: NameArgument,
    digest: DigestOption,
    kind: KindOption = "tools",
    config: ConfigOption = None,
) -> None:
    """Keep a definition from clients for good, if it is still the one that was seen."""
    _decide("reject", config, tool, kind, name, digest)
    say(f"{tool}: {visible(name) or kind} rejected")


def _decide(verb: str, config: Path | None, tool: str, kind: str, name: str, digest: str) -> None:
    body = {"kind": kind, "name": name, "digest": digest}
    control(config).ask("POST", at("tools", tool, "quarantine", verb), body=body)


def _cells(waiting: dict[str, Any]) -> tuple[str, ...]:
    return (
        waiting["tool"],
        waiting["kind"],
        visible(waiting["name"]),
        waiting["digest"][:SHOWN_DIGEST],
        waiting["standing"],
        "yes" if waiting["withheld"] else "no",
        visible(", ".join(waiting["changed"])),
        datetime.fromtimestamp(waiting["at"] / 1000, UTC).isoformat(timespec="seconds"),
    )
