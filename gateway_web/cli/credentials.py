"""``canalgate credentials``: have all workers forget the secrets of tools that they keep, or take up new ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from common.credentials.orders import CredentialOrders
from common.domain.ids import TenantId, ToolId
from gateway_web.cli.output import errors_as_exit_codes, out
from gateway_web.cli.where import store

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
ToolOption = Annotated[str | None, typer.Option("--tool", help="Only those of this tool.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")]

cli = typer.Typer(help="The secrets of tools that workers keep.", no_args_is_help=True)


def flush(tool: ToolOption = None, tenant: TenantOption = None, config: ConfigOption = None) -> None:
    """Ask the providers anew; sessions whose secrets turn out to be others are built anew."""
    _order(config, tool, tenant, lambda orders: orders.flush, "asks its providers anew")


def rotate(tool: ToolOption = None, tenant: TenantOption = None, config: ConfigOption = None) -> None:
    """Ask the providers anew and build new sessions; calls under way end on the old ones."""
    _order(
        config, tool, tenant, lambda orders: orders.rotate, "asks its providers anew, and builds new sessions"
    )


def _order(
    config: Path | None,
    tool: str | None,
    tenant: str | None,
    verb: Callable[[CredentialOrders], Callable[..., None]],
    what: str,
) -> None:
    where = store(config)
    verb(CredentialOrders(where.client, where.keys))(
        tool=None if tool is None else ToolId(tool),
        tenant=None if tenant is None else TenantId(tenant),
        actor=where.actor,
    )
    of = [f"tool {tool}"] if tool else []
    of += [f"tenant {tenant}"] if tenant else []
    out.print(f"within a second each worker {what}: {', '.join(of) or 'all credentials'}", markup=False)


for _verb in (flush, rotate):
    cli.command(_verb.__name__)(errors_as_exit_codes(_verb))
