"""``canalgate credentials``: have all workers forget the secrets of tools that they keep, or take up new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway_web.cli.completion import tool_ids
from gateway_web.cli.connection import control
from gateway_web.cli.output import errors_as_exit_codes, say

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
ToolOption = Annotated[
    str | None, typer.Option("--tool", help="Only those of this tool.", autocompletion=tool_ids)
]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Only those of this tenant.")]

cli = typer.Typer(help="The secrets of tools that workers keep.", no_args_is_help=True)


def flush(tool: ToolOption = None, tenant: TenantOption = None, config: ConfigOption = None) -> None:
    """Ask the providers anew; sessions whose secrets turn out to be others are built anew."""
    _order("flush", config, tool, tenant, "asks its providers anew")


def rotate(tool: ToolOption = None, tenant: TenantOption = None, config: ConfigOption = None) -> None:
    """Ask the providers anew and build new sessions; calls under way end on the old ones."""
    _order("rotate", config, tool, tenant, "asks its providers anew, and builds new sessions")


def _order(verb: str, config: Path | None, tool: str | None, tenant: str | None, what: str) -> None:
    control(config).ask("POST", f"/credentials/{verb}", body={"tool": tool, "tenant": tenant})
    of = [f"tool {tool}"] if tool else []
    of += [f"tenant {tenant}"] if tenant else []
    say(f"within a second each worker {what}: {', '.join(of) or 'all credentials'}")


for _verb in (flush, rotate):
    cli.command(_verb.__name__)(errors_as_exit_codes(_verb))
