"""``canalgate tools``: what is registered, and changing that while the gateway runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from common.domain.errors import ConfigurationError
from common.domain.tool import Origin, ToolState
from common.settings.interpolate import interpolate
from gateway_web.cli import quarantine, tool_show, tool_state
from gateway_web.cli.completion import ToolArgument
from gateway_web.cli.connection import control
from gateway_web.cli.control import Conflict, ControlClient, ControlRefused, Reply, at, items, match
from gateway_web.cli.output import errors_as_exit_codes, remark, say, say_json, say_table
from gateway_web.cli.tool_rows import COLUMNS, cells

cli = typer.Typer(
    help="List, show, add, change, switch, drain, remove and refresh tools.", invoke_without_command=True
)
cli.command("show")(errors_as_exit_codes(tool_show.show))
tool_state.add_verbs(cli)
cli.add_typer(quarantine.cli, name="quarantine")
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DefinitionArgument = Annotated[
    str, typer.Argument(help="As in the settings file: '{command: npx, args: [...]}'.")
]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, help="Only if the tool is at this version (`tools --json`).")
]


@cli.callback()
@errors_as_exit_codes
def list_by_default(
    context: typer.Context,
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List the tools of the running gateway."""
    if context.invoked_subcommand is None:
        _list(config, as_json=as_json)


@cli.command("list")
@errors_as_exit_codes
def list_tools(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the tools of the running gateway, as `tools` alone does."""
    _list(config, as_json=as_json)


def _list(config: Path | None, *, as_json: bool) -> None:
    found = items(control(config), "/tools")
    if as_json:
        say_json(found)
    else:
        say_table(COLUMNS, [cells(tool) for tool in found])


@cli.command("add")
@errors_as_exit_codes
def add(
    tool: Annotated[str, typer.Argument(help="Id of the tool.")],
    definition: DefinitionArgument,
    config: ConfigOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Change it if it exists.")] = False,  # noqa: FBT002
    version: VersionOption = None,
) -> None:
    """Register a tool while the gateway runs."""
    entry, plane = _entry(definition), control(config)
    there = _found(plane, tool) if replace and version is None else None
    expected = there.version if there else version
    try:
        done = plane.ask(
            "PUT", at("tools", tool), body=entry, headers=match(expected) or {"If-None-Match": "*"}
        )
    except Conflict as error:
        if expected is None and error.version is not None:
            error.message = f"a tool {tool!r} is registered already; --replace changes it"
        raise
    say(f"{tool} registered (version {done.version})")


@cli.command("update")
@errors_as_exit_codes
def update(
    tool: ToolArgument,
    definition: Annotated[
        str, typer.Argument(help="The keys to change: '{request_timeout: 60}'; null gives a default back.")
    ],
    config: ConfigOption = None,
    change_transport: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--change-transport", help="Let a command, a URL or a factory become another of them."),
    ] = False,
    version: VersionOption = None,
) -> None:
    """Change a tool while the gateway runs; what is not named stays, and so do its switch and its drain."""
    entry = _entry(definition)
    if "enabled" in entry:
        raise ConfigurationError(
            "enabled is not changed by update: use `canalgate tools enable` or `disable`", field="enabled"
        )
    plane = control(config)
    before = plane.ask("GET", at("tools", tool))
    done = plane.ask(
        "PATCH",
        at("tools", tool),
        query={"change_transport": change_transport},
        body=entry,
        headers=match(version),
    )
    if before.version == done.version:
        say(f"{tool} is so already (version {done.version})")
        return
    say(f"{tool} updated (version {done.version})")
    if before.body["origin"] == Origin.FILE:
        remark(
            f"note: the settings file has another definition of {tool}, which comes back when a web program starts"
        )


@cli.command("remove")
@errors_as_exit_codes
def remove(tool: ToolArgument, config: ConfigOption = None, version: VersionOption = None) -> None:
    """Take a tool off while the gateway runs."""
    control(config).ask("DELETE", at("tools", tool), headers=match(version))
    say(f"{tool} removed")


@cli.command("refresh")
@errors_as_exit_codes
def refresh(tool: ToolArgument, config: ConfigOption = None) -> None:
    """Ask a tool again what it offers."""
    plane = control(config)
    plane.ask("POST", at("tools", tool, "refresh"))
    say(f"{tool} will be asked again")
    found = plane.ask("GET", at("tools", tool)).body
    health, interval = found["health"], found["definition"].get("health_interval")
    if health is not None and health["grade"] != ToolState.ENABLED and interval:
        remark(
            f"note: its health is looked at again within {interval:g} s; until then `tools` shows {health['grade']}"
        )


def _found(plane: ControlClient, tool: str) -> Reply | None:
    try:
        return plane.ask("GET", at("tools", tool))
    except ControlRefused as error:
        if error.status != 404:
            raise
        return None


def _entry(definition: str) -> dict[str, Any]:
    """The definition as data, references resolved from this environment.

    Raises :class:`ConfigurationError` for what is no YAML, or no mapping.
    """
    try:
        found = interpolate(yaml.safe_load(definition), os.environ)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the definition is not YAML: {error}") from None
    if found.faults:
        raise ConfigurationError("; ".join(fault.message for fault in found.faults))
    if not isinstance(found.tree, Mapping):
        raise ConfigurationError("the definition must be a mapping of keys to values")
    return dict(found.tree)
