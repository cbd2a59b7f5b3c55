"""The tool sessions that live, as their owners have claimed them in Redis."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.domain.ids import ToolId, decode_part
from common.store.client import Client, store_errors
from common.store.keys import Keys

SCAN_COUNT = 500
_CLAIM = re.compile(r"(?P<node>.+) (?P<fence>\d+) (?P<at>\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSessionClaim:
    """Who holds a tool session. ``age`` is in seconds since the claim.

    ``tenant`` and ``client`` are None for a session of a pool, which is everybody's; ``mcp_session`` for one that is
    not bound to a single MCP session. ``node``, ``fence`` and ``age`` are None if the claim cannot be read.
    """

    tool: ToolId
    session: str
    tenant: str | None = None
    client: str | None = None
    mcp_session: str | None = None
    node: str | None = None
    fence: int | None = None
    age: float | None = None


def tool_session_claims(client: Client, keys: Keys, tool: ToolId) -> list[ToolSessionClaim]:
    """The sessions of a tool, sorted; read step by step, so one that comes or goes meanwhile may be in it or not.

    Fails closed: raises ``StoreUnavailable`` without Redis.
    """
    with store_errors("reading tool sessions"):
        seconds, micros = client.time()
        found = dict(client.hscan_iter(keys.sessions(tool), count=SCAN_COUNT))
    now = seconds * 1000 + micros // 1000
    return [_claim(tool, field, value, now) for field, value in sorted(found.items())]


def _claim(tool: ToolId, field: bytes, value: bytes, now: int) -> ToolSessionClaim:
    session = field.decode(errors="replace")
    parts: list[str | None] = (
        [] if session.startswith("*") else [_decoded(part) for part in session.split(":")]
    )
    tenant, client, mcp_session = [*parts, None, None, None][:3]
    read = _CLAIM.fullmatch(value.decode(errors="replace"))
    return ToolSessionClaim(
        tool=tool,
        session=session,
        tenant=tenant,
        client=client,
        mcp_session=mcp_session,
        node=None if read is None else read["node"],
        fence=None if read is None else int(read["fence"]),
        age=None if read is None else max(0, now - int(read["at"])) / 1000,
    )


def _decoded(part: str) -> str:
    """The id, or the part as it is if it is none of ours."""
    try:
        return decode_part(part)
    except UnicodeDecodeError:
        return part
