"""``canalgate tenants``: what tenants may use, changed while the gateway runs, and what they use now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from common.domain.errors import InvalidRequest
from common.domain.ids import TenantId
from common.domain.quota import FIELDS, CapabilityRate, Quota, layer_to_wire
from common.settings.document import parse
from common.tenants.desk import TenantDesk, TenantView
from common.tenants.records import ANY_VERSION
from common.tenants.usage import RateUsage, TenantUsage
from gateway_web.cli.output import errors_as_exit_codes, out, say_json, say_table
from gateway_web.cli.where import Store, store

cli = typer.Typer(help="See and change what tenants may use.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantArgument = Annotated[str, typer.Argument(help="Name of the tenant.")]
VersionOption = Annotated[
    int | None,
    typer.Option("--version", min=0, help="Only if what was set is at this version; 0: nothing was."),
]
NONE = "none"


@cli.command("list")
@errors_as_exit_codes
def list_tenants(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the tenants that the file names, or that something was set for."""
    views = _desk(store(config)).all()
    if as_json:
        say_json([_row(view) for view in views])
        return
    columns = ("tenant", "state", "requests/min", "calls", "tool sessions", "mcp sessions", "set at run time")
    say_table(columns, [_cells(view) for view in views])


@cli.command("show")
@errors_as_exit_codes
def show(tenant: TenantArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """Show what a tenant may use, and what of it was set at run time."""
    view = _desk(store(config)).get(TenantId(tenant))
    if as_json:
        say_json(_row(view))
        return
    _say(view)


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
    sets = parse(bounds, name="bounds").tree
    if not isinstance(sets, Mapping):
        raise InvalidRequest("the bounds must be a mapping of fields to values", field="bounds")
    if not sets and not unset:
        raise InvalidRequest("nothing to set: name at least one bound, or --unset one", field="bounds")
    where = store(config)
    view = _desk(where).change(
        TenantId(tenant),
        {str(name): value for name, value in sets.items()},
        unset or (),
        actor=where.actor,
        expected=ANY_VERSION if version is None else version,
    )
    _say(view)


@cli.command("remove")
@errors_as_exit_codes
def remove(tenant: TenantArgument, config: ConfigOption = None, version: VersionOption = None) -> None:
    """Forget what was set for a tenant at run time: the settings file holds again."""
    where = store(config)
    expected = ANY_VERSION if version is None else version
    _desk(where).remove(TenantId(tenant), actor=where.actor, expected=expected)
    out.print(f"what was set for {tenant} at run time holds no more", markup=False)


@cli.command("usage")
@errors_as_exit_codes
def usage(
    tenants: Annotated[list[str] | None, typer.Argument(metavar="[TENANT]...")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show what tenants use now; - is not counted, since no bound asks for it."""
    found = _desk(store(config)).usage([TenantId(name) for name in tenants or ()])
    if as_json:
        say_json([_usage_row(one) for one in found])
        return
    columns = ("tenant", "requests left", "calls", "tool sessions", "mcp sessions")
    say_table(columns, [_usage_cells(one) for one in found])


def _desk(where: Store) -> TenantDesk:
    return TenantDesk(where.client, where.keys, where.settings)


def _row(view: TenantView) -> dict[str, Any]:
    return {
        "tenant": view.id,
        "listed": view.listed,
        "version": view.version,
        "set": {} if view.record is None else layer_to_wire(view.record.layer),
        "quota": layer_to_wire({name: getattr(view.quota, name) for name in FIELDS}),
    }


def _cells(view: TenantView) -> tuple[str, ...]:
    quota = view.quota
    return (
        view.id,
        "admitted" if quota.enabled else "suspended",
        *(
            _shown(bound)
            for bound in (
                quota.requests_per_minute,
                quota.max_calls,
                quota.max_sessions,
                quota.max_mcp_sessions,
            )
        ),
        "" if view.record is None else f"version {view.version}: {', '.join(view.record.layer)}",
    )


def _say(view: TenantView) -> None:
    """One line a field, and where it is from."""
    own = {} if view.record is None else view.record.layer
    rows = [
        (name, _field(view.quota, name), f"set at run time (version {view.version})" if name in own else "")
        for name in FIELDS
    ]
    say_table((view.id, "", ""), rows)


def _field(quota: Quota, name: str) -> str:
    value = getattr(quota, name)
    if name == "enabled":
        return "admitted" if value else "suspended"
    if name == "capabilities":
        return ", ".join(map(_rate_of, value)) or NONE
    return _shown(value)


def _rate_of(limit: CapabilityRate) -> str:
    return f"{limit.tool} {limit.name}: {limit.rate.per_minute} a minute, {limit.rate.burst} at once"


def _shown(bound: int | None) -> str:
    return NONE if bound is None else str(bound)


def _usage_row(one: TenantUsage) -> dict[str, Any]:
    return {
        "tenant": one.tenant,
        "requests": _rate_row(one.requests),
        "capabilities": [
            {"tool": limit.tool, "name": limit.name} | (_rate_row(used) or {})
            for limit, used in zip(one.quota.capabilities, one.capabilities, strict=True)
        ],
        "calls": one.calls,
        "max_calls": one.quota.max_calls,
        "sessions": one.sessions,
        "max_sessions": one.quota.max_sessions,
        "mcp_sessions": one.mcp_sessions,
        "max_mcp_sessions": one.quota.max_mcp_sessions,
    }


def _rate_row(used: RateUsage | None) -> dict[str, int] | None:
    if used is None:
        return None
    return {"left": used.left, "per_minute": used.rate.per_minute, "burst": used.rate.burst}


def _usage_cells(one: TenantUsage) -> tuple[str, ...]:
    quota, requests = one.quota, one.requests
    return (
        one.tenant,
        "-" if requests is None else f"{requests.left} of {requests.rate.burst}",
        _of(one.calls, quota.max_calls),
        _of(one.sessions, quota.max_sessions),
        _of(one.mcp_sessions, quota.max_mcp_sessions),
    )


def _of(used: int | None, most: int | None) -> str:
    if used is None:
        return "-"
    return str(used) if most is None else f"{used} of {most}"
