"""``canalgate tools``: what is registered, and changing that while the gateway runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.table import Table

from common.domain.errors import ConfigurationError, VersionConflict
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport
from common.registry.records import Entry
from common.registry.registry import ABSENT, ANY_VERSION, Registry
from common.settings.entry import read_tool
from common.settings.interpolate import interpolate
from gateway_web.cli.output import errors_as_exit_codes, out, say_json
from gateway_web.cli.where import Store, store

cli = typer.Typer(help="List, add, remove and refresh tools.", invoke_without_command=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]


@cli.callback()
@errors_as_exit_codes
def list_tools(
    context: typer.Context,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """List the tools of the running gateway."""
    if context.invoked_subcommand is not None:
        return
    entries = _registry(store(config)).entries()
    if as_json:
        say_json([_row(entry) for entry in entries])
        return
    table = Table("tool", "state", "transport", "offers", "eras", "problem", box=None)
    for entry in entries:
        row = _row(entry)
        offers = "not known yet" if row["offers"] is None else str(len(row["offers"]))
        table.add_row(
            row["id"], row["state"], row["transport"], offers, " ".join(row["eras"]), row["problem"] or ""
        )
    out.print(table)


@cli.command("add")
@errors_as_exit_codes
def add(
    tool: Annotated[str, typer.Argument(help="Id of the tool.")],
    definition: Annotated[
        str, typer.Argument(help="As in the settings file: '{command: npx, args: [...]}'.")
    ],
    config: ConfigOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change it if it exists.")] = False,  # noqa: FBT002
) -> None:
    """Register a tool while the gateway runs."""
    where = store(config)
    try:
        entry = interpolate(yaml.safe_load(definition), os.environ)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the definition is not YAML: {error}") from None
    if entry.faults:
        raise ConfigurationError("; ".join(fault.message for fault in entry.faults))
    found = read_tool(tool, entry.tree, where.settings.runtime)
    if isinstance(found, list):
        raise ConfigurationError("; ".join(message for _, message in found))
    try:
        version = _registry(where).put(found, expected=ANY_VERSION if replace else ABSENT)
    except VersionConflict as error:
        raise VersionConflict(f"a tool {tool!r} is registered already; --replace changes it") from error
    out.print(f"{tool} registered (version {version})", markup=False)


@cli.command("remove")
@errors_as_exit_codes
def remove(tool: str, config: ConfigOption = None) -> None:
    """Take a tool off while the gateway runs."""
    _registry(store(config)).remove(ToolId(tool))
    out.print(f"{tool} removed", markup=False)


@cli.command("refresh")
@errors_as_exit_codes
def refresh(tool: str, config: ConfigOption = None) -> None:
    """Ask a tool again what it offers."""
    _registry(store(config)).refresh(ToolId(tool))
    out.print(f"{tool} will be asked again", markup=False)


def _registry(where: Store) -> Registry:
    return Registry(where.client, where.keys)


def _row(entry: Entry) -> dict[str, Any]:
    known = entry.known
    return {
        "id": entry.id,
        "version": entry.registered.version,
        "origin": entry.registered.origin.value,
        "state": entry.tool.state.value,
        "transport": "stdio" if isinstance(entry.tool.transport, StdioTransport) else "http",
        "offers": None if known is None else [str(tool.get("name")) for tool in known.tools],
        "eras": [] if known is None else [f"{era} {version}" for era, version in known.eras.items()],
        "problem": None if known is None else known.error,
    }
