"""The tool sessions that live, and closing one. Who owns a session stands in Redis; the rest its worker tells."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson

from common.domain.errors import SessionNotFound
from common.domain.ids import NodeId, ToolId
from common.registry.tool_sessions import ToolSessionClaim, tool_session_claims
from common.store.client import Client, store_errors
from common.store.keys import Keys

FACTS_TTL = 60.0
"""Seconds for which what a worker told of its sessions is kept: then it lives no more, or Redis did not hear it."""
POLL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What a worker tells of a session, at most a few seconds ago. ``age`` and ``idle`` are in seconds.

    ``pid`` is that of the child process as the worker's machine or container counts, None for an HTTP backend and
    while it starts; ``version`` the MCP revision spoken with the backend, empty while it starts.
    """

    tool: str
    session: str
    fence: int
    in_flight: int
    age: float
    idle: float
    version: str = ""
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSession:
    """A session: its owner's claim, and what the owner told of it, None if it has not told yet."""

    claim: ToolSessionClaim
    facts: SessionFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseOrder:
    """An operator wants a session closed; with ``force`` at once, else when its calls have ended."""

    tool: str
    session: str
    actor: str
    force: bool = False


def facts_to_json(facts: SessionFacts) -> dict[str, Any]:
    """As plain JSON."""
    return asdict(facts)


def _facts_from_json(wire: Mapping[str, Any]) -> SessionFacts:
    """What a newer worker has added is left out."""
    names = {field.name for field in fields(SessionFacts)}
    return SessionFacts(**{name: value for name, value in wire.items() if name in names})


def close_order_from_json(data: bytes) -> CloseOrder:
    """Raises ValueError or KeyError for what is no order."""
    wire = orjson.loads(data)
    return CloseOrder(
        tool=wire["tool"], session=wire["session"], actor=wire["actor"], force=bool(wire["force"])
    )


class LiveSessions:
    """Reads and closes. Fails closed: without Redis each method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def of_tools(self, tools: Sequence[ToolId]) -> list[LiveSession]:
        """The sessions of these tools, sorted."""
        claims = [claim for tool in tools for claim in tool_session_claims(self._client, self._keys, tool)]
        told = self._told({claim.node for claim in claims if claim.node is not None})
        return [
            LiveSession(claim=claim, facts=told.get((claim.tool, claim.session, claim.fence)))
            for claim in claims
        ]

    def close(
        self, tool: ToolId, session: str, *, actor: str, force: bool = False, timeout: float = 2.0
    ) -> bool:
        """Have a session closed: when its calls have ended, or with ``force`` at once, whatever runs there.

        The next call of its callers opens another one. Returns whether it is closed already; waits for that at most
        ``timeout`` seconds. Its worker tells the audit journal. Raises :class:`SessionNotFound` if nobody owns it.
        """
        fence = self._fence(tool, session)
        if fence is None:
            raise SessionNotFound(f"tool {tool!r} has no session {session!r}")
        order = CloseOrder(tool=tool, session=session, actor=actor, force=force)
        with store_errors("closing a tool session"):
            self._client.publish(self._keys.close_session_channel, orjson.dumps(asdict(order)))
        end = time.monotonic() + timeout
        while (closed := self._fence(tool, session) != fence) is False and time.monotonic() < end:
            time.sleep(POLL)
        return closed

    def _fence(self, tool: ToolId, session: str) -> int | None:
        claims = tool_session_claims(self._client, self._keys, tool)
        found = next((claim for claim in claims if claim.session == session), None)
        return None if found is None else (found.fence or 0)

    def _told(self, nodes: set[str]) -> dict[tuple[str, str, int | None], SessionFacts]:
        names = sorted(nodes)
        if not names:
            return {}
        with store_errors("reading what workers tell of sessions"):
            raw = self._client.mget([self._keys.session_facts(NodeId(name)) for name in names])
        found = [_facts_from_json(wire) for text in raw if text is not None for wire in orjson.loads(text)]
        return {(facts.tool, facts.session, facts.fence): facts for facts in found}
