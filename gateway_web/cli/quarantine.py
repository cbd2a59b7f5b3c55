"""``canalgate tools quarantine``: definitions that are not approved."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.domain.ids import ToolId
from common.mcp.hidden_text import visible
from common.registry.quarantine import KINDS, Quarantine
from gateway_web.cli.output import errors_as_exit_codes, for_terminal, out, say_json, say_table
from gateway_web.cli.where import Store, store

cli = typer.Typer(
    help="Definitions that are not the approved ones: list, show, approve, reject.", no_args_is_help=True
)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ToolArgument = Annotated[str, typer.Argument(help="Id of the tool.")]
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
    found = _quarantine(store(config)).waiting(None if tool is None else ToolId(tool))
    if as_json:
        say_json([asdict(waiting) for waiting in found])
        return
    rows = [
        (
            waiting.tool,
            waiting.kind,
            visible(waiting.name),
            waiting.digest[:SHOWN_DIGEST],
            waiting.standing,
            "yes" if waiting.withheld else "no",
            visible(", ".join(waiting.changed)),
            datetime.fromtimestamp(waiting.at / 1000, UTC).isoformat(timespec="seconds"),
        )
        for waiting in found
    ]
    say_table(COLUMNS, rows)


@cli.command("show")
@errors_as_exit_codes
def show(
    tool: ToolArgument, name: NameArgument, kind: KindOption = "tools", config: ConfigOption = None
) -> None:
    """Show what differs from the approved definition; hidden characters are written out."""
    for line in _quarantine(store(config)).difference(ToolId(tool), kind, name):
        out.print(for_terminal(line))


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
    where = store(config)
    _quarantine(where).approve(ToolId(tool), kind, name, digest, actor=where.actor)
    out.print(f"{tool}: {visible(name) or kind} approved", markup=False)


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
    where = store(config)
    _quarantine(where).reject(ToolId(tool), kind, name, digest, actor=where.actor)
    out.print(f"{tool}: {visible(name) or kind} rejected", markup=False)


def _quarantine(where: Store) -> Quarantine:
    return Quarantine(where.client, where.keys)
