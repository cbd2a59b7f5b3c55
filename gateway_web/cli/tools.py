"""``canalgate tools``: what is registered, and changing that while the gateway runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from common.control.tools import overview, overview_to_wire
from common.domain.errors import ConfigurationError, VersionConflict
from common.domain.ids import ToolId
from common.domain.tool import Origin, Tool
from common.registry.registry import ABSENT, ANY_VERSION, Registry
from common.settings import RuntimeSettings
from common.settings.entry_of import changed_entry
from common.settings.interpolate import interpolate
from common.settings.tools import read_tool
from gateway_web.cli import quarantine, tool_show, tool_state
from gateway_web.cli.output import err, errors_as_exit_codes, out, say_json, say_table
from gateway_web.cli.tool_rows import COLUMNS, cells
from gateway_web.cli.where import Store, store

cli = typer.Typer(
    help="List, show, add, change, switch, drain, remove and refresh tools.", invoke_without_command=True
)
cli.command("show")(errors_as_exit_codes(tool_show.show))
tool_state.add_verbs(cli)
cli.add_typer(quarantine.cli, name="quarantine")
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
DefinitionArgument = Annotated[
    str, typer.Argument(help="As in the settings file: '{command: npx, args: [...]}'.")
]


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
    where = store(config)
    found = overview(where.client, where.keys)
    if as_json:
        say_json([overview_to_wire(tool) for tool in found])
        return
    say_table(COLUMNS, [cells(tool) for tool in found])


@cli.command("add")
@errors_as_exit_codes
def add(
    tool: Annotated[str, typer.Argument(help="Id of the tool.")],
    definition: DefinitionArgument,
    config: ConfigOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change it if it exists.")] = False,  # noqa: FBT002
) -> None:
    """Register a tool while the gateway runs."""
    where = store(config)
    found = _read(tool, _given(definition), where.settings.runtime)
    try:
        version = _registry(where).put(found, expected=ANY_VERSION if replace else ABSENT, actor=where.actor)
    except VersionConflict as error:
        raise VersionConflict(f"a tool {tool!r} is registered already; --replace changes it") from error
    out.print(f"{tool} registered (version {version})", markup=False)


@cli.command("update")
@errors_as_exit_codes
def update(
    tool: Annotated[str, typer.Argument(help="Id of the tool.")],
    definition: Annotated[
        str, typer.Argument(help="The keys to change: '{request_timeout: 60}'; null gives a default back.")
    ],
    config: ConfigOption = None,
    change_transport: Annotated[  # noqa: FBT002
        bool, typer.Option("--change-transport", help="Let a command become a URL, or a URL a command.")
    ] = False,
) -> None:
    """Change a tool while the gateway runs; what is not named stays, and so do its switch and its drain."""
    where = store(config)
    given = _given(definition)
    if not isinstance(given, Mapping):
        raise ConfigurationError("the definition must be a mapping of keys to values")
    if "enabled" in given:
        raise ConfigurationError(
            "enabled is not changed by update: use `canalgate tools enable` or `disable`", field="enabled"
        )
    registry = _registry(where)

    def changed(found: Tool) -> Tool:
        return _read(tool, changed_entry(found, given), where.settings.runtime)

    before = registry.get(ToolId(tool)).registered
    version = registry.update(before.tool.id, changed, actor=where.actor, change_transport=change_transport)
    if version == before.version:
        out.print(f"{tool} is so already (version {version})", markup=False)
        return
    out.print(f"{tool} updated (version {version})", markup=False)
    if before.origin is Origin.FILE:
        err.print(
            f"note: the settings file has another definition of {tool}, which comes back when a web program starts",
            markup=False,
        )


@cli.command("remove")
@errors_as_exit_codes
def remove(tool: str, config: ConfigOption = None) -> None:
    """Take a tool off while the gateway runs."""
    where = store(config)
    _registry(where).remove(ToolId(tool), actor=where.actor)
    out.print(f"{tool} removed", markup=False)


@cli.command("refresh")
@errors_as_exit_codes
def refresh(tool: str, config: ConfigOption = None) -> None:
    """Ask a tool again what it offers."""
    _registry(store(config)).refresh(ToolId(tool))
    out.print(f"{tool} will be asked again", markup=False)


def _registry(where: Store) -> Registry:
    return Registry(where.client, where.keys, where.settings.egress.rules)


def _given(definition: str) -> Any:
    """The definition as data, references resolved. Raises :class:`ConfigurationError` for what is no YAML."""
    try:
        found = interpolate(yaml.safe_load(definition), os.environ)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the definition is not YAML: {error}") from None
    if found.faults:
        raise ConfigurationError("; ".join(fault.message for fault in found.faults))
    return found.tree


def _read(tool: str, entry: Any, runtime: RuntimeSettings) -> Tool:
    """The tool that an entry makes. Raises :class:`ConfigurationError` that names each key at fault."""
    found = read_tool(tool, entry, runtime)
    if isinstance(found, list):
        raise ConfigurationError("; ".join(message for _, message in found))
    return found
