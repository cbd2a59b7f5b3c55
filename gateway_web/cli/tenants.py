"""``canalgate tenants``: what tenants may use, changed while the gateway runs, and what they use now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from common.domain.errors import InvalidRequest
from common.domain.quota import FIELDS
from common.settings.document import parse
from gateway_web.cli.connection import control
from gateway_web.cli.control import Conflict, ControlClient, at, items, match
from gateway_web.cli.output import errors_as_exit_codes, say, say_json, say_table

cli = typer.Typer(help="See and change what tenants may use.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantArgument = Annotated[str, typer.Argument(help="Name of the tenant.")]
VersionOption = Annotated[
    int | None,
    typer.Option("--version", min=0, help="Only if what was set is at this version; 0: nothing was."),
]
NONE = "none"
ATTEMPTS = 5
"""So often a change is made anew of what others have made of it meanwhile."""
Told = dict[str, Any]
"""A tenant, or its usage, as the admin API tells it."""


@cli.command("list")
@errors_as_exit_codes
def list_tenants(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the tenants that the file names, or that something was set for."""
    found = items(control(config), "/tenants")
    if as_json:
        say_json(found)
        return
    columns = ("tenant", "state", "requests/min", "calls", "tool sessions", "mcp sessions", "set at run time")
    say_table(columns, [_cells(tenant) for tenant in found])


@cli.command("show")
@errors_as_exit_codes
def show(tenant: TenantArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """Show what a tenant may use, and what of it was set at run time."""
    found = control(config).ask("GET", at("tenants", tenant)).body
    if as_json:
        say_json(found)
        return
    _say(found)


@cli.command("set")
@errors_as_exit_codes
def set_quota(
    tenant: TenantArgument,
    bounds: Annotated[
        str,
        typer.Argument(
            help="What to set: '{requests_per_minute: 600, burst: 100}'; null is no bound, '{enabled: false}' suspends."
        ),
    ] = "{}",
    unset: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Have this field from the settings file again.")
    ] = None,
    config: ConfigOption = None,
    version: VersionOption = None,
) -> None:
    """Change what a tenant may use, for all processes, within a second. What is not named stays."""
    sets = parse(_braced(bounds), name="bounds").tree
    if not isinstance(sets, Mapping):
        raise InvalidRequest("the bounds must be a mapping of fields to values", field="bounds")
    if not sets and not unset:
        raise InvalidRequest("nothing to set: name at least one bound, or --unset one", field="bounds")
    if unknown := [name for name in unset or () if name not in FIELDS]:
        raise InvalidRequest(f"unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}", field="--unset")
    plane = control(config)
    for attempt in range(ATTEMPTS):
        found = plane.ask("GET", at("tenants", tenant)).body
        try:
            _say(_changed(plane, found, sets, unset or (), version))
        except Conflict:
            if version is not None or attempt == ATTEMPTS - 1:
                raise
        else:
            return


def _braced(bounds: str) -> str:
    """A line of fields without its braces is one all the same: they are what a shell makes one forget."""
    bare = ":" in bounds and "\n" not in bounds and not bounds.lstrip().startswith("{")
    return f"{{{bounds}}}" if bare else bounds


def _changed(
    plane: ControlClient, found: Told, sets: Mapping[str, Any], unset: Sequence[str], version: int | None
) -> Told:
    """The tenant after a change of exactly what was read. Raises :class:`Conflict` if others were quicker."""
    present = found["version"]
    if version not in (None, present):
        raise Conflict(
            f"what was set for {found['id']} is at version {present}, not {version}", version=present
        )
    wanted = {name: value for name, value in {**found["set"], **sets}.items() if name not in unset}
    header = match(present) if present else {"If-None-Match": "*"}
    told: Told = plane.ask("PUT", at("tenants", found["id"]), body=wanted, headers=header).body
    return told


@cli.command("remove")
@errors_as_exit_codes
def remove(tenant: TenantArgument, config: ConfigOption = None, version: VersionOption = None) -> None:
    """Forget what was set for a tenant at run time: the settings file holds again."""
    control(config).ask("DELETE", at("tenants", tenant), headers=match(version))
    say(f"what was set for {tenant} at run time holds no more")


@cli.command("usage")
@errors_as_exit_codes
def usage(
    tenants: Annotated[list[str] | None, typer.Argument(metavar="[TENANT]...")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show what tenants use now; - is not counted, since no bound asks for it."""
    plane = control(config)
    names = tenants or [tenant["id"] for tenant in items(plane, "/tenants")]
    found = [plane.ask("GET", at("tenants", name, "usage")).body for name in names]
    if as_json:
        say_json(found)
        return
    columns = ("tenant", "requests left", "calls", "tool sessions", "mcp sessions")
    say_table(columns, [_usage_cells(one) for one in found])


def _cells(tenant: Told) -> tuple[str, ...]:
    quota = tenant["quota"]
    bounds = ("requests_per_minute", "max_calls", "max_sessions", "max_mcp_sessions")
    return (
        tenant["id"],
        _admitted(quota["enabled"]),
        *(_shown(quota[name]) for name in bounds),
        f"version {tenant['version']}: {', '.join(tenant['set'])}" if tenant["version"] else "",
    )


def _say(tenant: Told) -> None:
    """One line a field, and where it is from."""
    quota, from_where = tenant["quota"], f"set at run time (version {tenant['version']})"
    rows = [(name, _field(name, quota[name]), from_where if name in tenant["set"] else "") for name in FIELDS]
    say_table((tenant["id"], "", ""), rows)


def _field(name: str, value: Any) -> str:
    if name == "enabled":
        return _admitted(value)
    if name == "capabilities":
        return ", ".join(map(_rate_of, value)) or NONE
    return _shown(value)


def _admitted(enabled: bool) -> str:  # noqa: FBT001 - a value, not a switch
    return "admitted" if enabled else "suspended"


def _rate_of(limit: Told) -> str:
    burst = limit.get("burst") or limit["requests_per_minute"]
    return f"{limit['tool']} {limit['name']}: {limit['requests_per_minute']} a minute, {burst} at once"


def _shown(bound: int | None) -> str:
    return NONE if bound is None else str(bound)


def _usage_cells(one: Told) -> tuple[str, ...]:
    requests = one["requests"]
    return (
        one["tenant"],
        "-" if requests is None else f"{requests['left']} of {requests['burst']}",
        _of(one["calls"], one["max_calls"]),
        _of(one["sessions"], one["max_sessions"]),
        _of(one["mcp_sessions"], one["max_mcp_sessions"]),
    )


def _of(used: int | None, most: int | None) -> str:
    if used is None:
        return "-"
    return str(used) if most is None else f"{used} of {most}"
