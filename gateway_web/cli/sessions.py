"""``canalgate sessions``: the live tool sessions, whose they are and which worker holds them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from common.domain.ids import ToolId
from common.registry.registry import Registry
from common.registry.tool_sessions import ToolSessionClaim, tool_session_claims
from gateway_web.cli.output import say_json, say_table
from gateway_web.cli.where import store

COLUMNS = ("tool", "tenant", "client", "MCP session", "node", "fence", "age")


def sessions(
    tool: Annotated[str | None, typer.Argument(help="Only those of this tool.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """List the live sessions with tools: whose each is, which worker holds it, for how long."""
    where = store(config)
    registry = Registry(where.client, where.keys)
    wanted = [entry.id for entry in registry.entries()] if tool is None else [registry.get(ToolId(tool)).id]
    claims = [claim for name in wanted for claim in tool_session_claims(where.client, where.keys, name)]
    if as_json:
        say_json([asdict(claim) for claim in claims])
        return
    say_table(COLUMNS, [_cells(claim) for claim in claims])


def _cells(claim: ToolSessionClaim) -> tuple[str, ...]:
    everybody = claim.tenant is None
    return (
        claim.tool,
        f"(pool, {claim.session})" if everybody else str(claim.tenant),
        "" if everybody else str(claim.client or ""),
        claim.mcp_session or "",
        "?" if claim.node is None else claim.node,
        "?" if claim.fence is None else str(claim.fence),
        "?" if claim.age is None else f"{claim.age:.0f} s",
    )
