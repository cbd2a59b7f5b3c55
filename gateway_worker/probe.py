"""How one tool is: a question over a session that stands, or over a connection made for it alone."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Protocol

from common.domain.errors import CredentialUnavailable, GatewayError
from common.domain.ids import ToolId
from common.domain.rules import HealthRules
from common.domain.tool import StdioTransport
from common.mcp.revisions import Era
from common.registry.records import Entry
from gateway_worker.credentials.identity import GivenTo
from gateway_worker.credentials.refusal import refuses_credentials
from gateway_worker.discovery import listing_order
from gateway_worker.egress.backend import Backend, MakeLink, start
from gateway_worker.egress.link import GateShut, RpcError

QUESTIONS = {Era.LEGACY: "ping", Era.MODERN: "server/discover"}


class OpenSessions(Protocol):
    """What a probe needs of this worker's sessions."""

    def open_backend(self, tool: ToolId) -> Backend | None:
        """An open backend of the tool here, best one without calls, or None. Looking is no use of its session."""


class Finding(NamedTuple):
    """What a probe saw: seconds until the answer (None: nothing was asked), or why there was none."""

    latency: float | None
    error: str = ""


class Probe:
    """Asks, and grades nothing."""

    def __init__(self, links: MakeLink, sessions: OpenSessions, given_to: GivenTo) -> None:
        """``given_to`` says which credentials the gateway's own connections with a tool get."""
        self._links = links
        self._sessions = sessions
        self._given_to = given_to

    async def find(self, entry: Entry) -> Finding | None:
        """How the tool is; None if that could not be found out.

        A session or a kept connection that ends under the question says nothing of the tool, nor does one that this
        worker must not use at the moment: an HTTP tool is asked again over a connection of the probe's own, a stdio
        tool by the next probe.
        """
        backend, rules = self.open_backend(entry.id), entry.tool.health
        if isinstance(entry.tool.transport, StdioTransport):
            if backend is None:
                return at_rest(entry)
            found = await self._ask_session(backend, rules)
            return None if found is None or (found.error and backend.link.closed.is_set()) else found
        if backend is not None and entry.tool.credentials is None:
            # The session of a caller with credentials is that caller's: what they may do says nothing of the tool.
            found = await self._ask_session(backend, rules)
            if found is not None and not found.error:
                return found
        return await self._over_a_connection(entry)

    @staticmethod
    async def _ask_session(backend: Backend, rules: HealthRules) -> Finding | None:
        try:
            return await ask(backend, rules)
        except GateShut:
            return None

    async def _over_a_connection(self, entry: Entry) -> Finding | None:
        """Ask an HTTP tool over a connection of the probe's own; neither it nor a session at the backend is left.

        That the probe's credentials cannot be had, or are refused, says nothing of the tool.
        """
        try:
            given = await self._given_to(entry.tool)
            begun = time.monotonic()
            link = self._links(entry.tool, given=given)
            backend = await start(entry.tool, link, listing_order(entry))
        except CredentialUnavailable:
            return None
        except GatewayError as error:
            if entry.tool.credentials is not None and refuses_credentials(error):
                return Finding(time.monotonic() - begun)
            return Finding(None, error.message)
        try:
            return await ask(backend, entry.tool.health)
        finally:
            await backend.link.close()

    def open_backend(self, tool: ToolId) -> Backend | None:
        """An open backend of the tool here whose link still stands, or None."""
        backend = self._sessions.open_backend(tool)
        return None if backend is None or backend.link.closed.is_set() else backend


def at_rest(entry: Entry) -> Finding | None:
    """A stdio tool without a process is not started to be asked: discovery knows whether it can be."""
    return None if entry.known is None else Finding(None, entry.known.error or "")


async def ask(backend: Backend, rules: HealthRules) -> Finding:
    """Ask an open backend. An error of its own is an answer: it lives, though it does not know the question.

    The link stays open whatever comes of it. Raises :class:`GateShut` if nothing may be asked over it.
    """
    begun = time.monotonic()
    try:
        async with asyncio.timeout(rules.timeout):
            await backend.request(QUESTIONS[backend.negotiated.era], {})
    except RpcError:
        pass
    except TimeoutError:
        return Finding(rules.timeout)
    except GateShut:
        raise
    except GatewayError as error:
        return Finding(None, error.message)
    return Finding(time.monotonic() - begun)
