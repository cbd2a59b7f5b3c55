"""Learning what a tool offers, in the background: nothing ever waits for it.

Due when the definition is new, the last answer is older than ``discovery.ttl``, somebody asked for it, the
backend announced a change, or a failed attempt's pause is over. One worker of the cluster does it at a time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import orjson
import structlog

from common.credentials.injection import Injected
from common.domain.capabilities import LISTS, Capabilities, capabilities_from_wire
from common.domain.content_rules import HiddenCharacters
from common.domain.errors import GatewayError, StoreUnavailable, TransportFailure
from common.domain.ids import NodeId, ToolId
from common.domain.tool import StdioTransport, Tool
from common.mcp.client_capabilities import EVERY
from common.mcp.jsonrpc import METHOD_NOT_FOUND
from common.mcp.listings import LISTINGS, Listing
from common.mcp.revisions import Era
from common.registry.catalogue import CatalogueReader
from common.registry.records import Entry
from common.settings import DiscoverySettings
from common.store.client import AsyncClient, store_errors
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.scripts import run_async
from common.telemetry.about import About
from gateway_worker.capability_store import CapabilityStore
from gateway_worker.content import MOST_FLAGS, examined, resembling, with_server_examined
from gateway_worker.credentials.identity import GivenTo, nothing_given
from gateway_worker.credentials.refusal import refuses_credentials
from gateway_worker.definitions import sorted_out
from gateway_worker.egress.backend import Backend, MakeLink, connect, start
from gateway_worker.egress.link import LinkLost, RpcError
from gateway_worker.eras import opening_order

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 0.5
MAX_PAGES = 1000
MAX_AT_ONCE = 8
CALM = 2.0
"""Seconds without another announcement after which a backend's next one is looked at at once again."""
PAUSE_FIRST, PAUSE_MAX = 1.0, 60.0
"""Seconds between two looks at one that announces changes all the time."""
LEASE_MARGIN = 10.0
MOST_DIGITS = 15
"""Of a time in milliseconds: thirty thousand years."""


class Discovery:
    """Keeps the capabilities of the tools this worker serves up to date."""

    def __init__(
        self,
        *,
        node: NodeId,
        client: AsyncClient,
        keys: Keys,
        clock: RedisClock,
        catalogue: CatalogueReader,
        serves: Callable[[ToolId], bool],
        links: MakeLink,
        settings: DiscoverySettings,
        given_to: GivenTo = nothing_given,
    ) -> None:
        """``given_to`` says which credentials the gateway's own connections with a tool get."""
        self._given_to = given_to
        self._node = node
        self._client = client
        self._keys = keys
        self._clock = clock
        self._catalogue = catalogue
        self._serves = serves
        self._links = links
        self._settings = settings
        self._changed: dict[ToolId, set[str]] = {}
        self._running: dict[ToolId, asyncio.Task[None]] = {}
        self._begun: dict[ToolId, float] = {}
        """When this worker last looked at a tool (monotonic seconds)."""
        self._answered: dict[ToolId, float] = {}
        """When it was last asked for what it had announced."""
        self._pauses: dict[ToolId, float] = {}
        """Seconds for which what it announces waits."""
        self._closed = False
        self._store = CapabilityStore(client, keys, node)

    def announce(self, tool: ToolId, kind: str) -> None:
        """The backend said that a list of its has changed; ``kind`` is the capability that it stands under."""
        self._changed.setdefault(tool, set()).add(kind)

    async def run(self) -> None:
        """Look for what is due, for ever. Redis away: look again later."""
        while True:
            try:
                await self._look()
            except StoreUnavailable as error:
                log.debug("discovery_paused", error=str(error))
            except Exception:
                log.exception("discovery_paused")
            await asyncio.sleep(LOOK_INTERVAL)

    async def close(self) -> None:
        """Stop what runs, and begin nothing more."""
        self._closed = True
        for task in list(self._running.values()):
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running.values()))

    async def _look(self) -> None:
        with store_errors("reading wanted discoveries"):
            raw: dict[Any, Any] = await self._client.hgetall(self._keys.registry_refresh)
        wanted = {ToolId(name.decode(errors="replace")): _moment(at) for name, at in raw.items()}
        due = [
            entry
            for entry in self._catalogue.entries()
            if entry.id not in self._running and self._serves(entry.id) and self._due(entry, wanted)
        ]
        # Whose turn was longest ago: some that are due all the time must not keep others from theirs.
        due.sort(key=lambda entry: self._begun.get(entry.id, 0.0))
        for entry in due[: MAX_AT_ONCE - len(self._running)]:
            if self._closed:
                return
            self._begun[entry.id] = time.monotonic()
            task = asyncio.create_task(self._guarded(entry), name=f"discovery-{entry.id}")
            self._running[entry.id] = task
            task.add_done_callback(lambda _, tool=entry.id: self._running.pop(tool, None))  # type: ignore[misc]

    def _due(self, entry: Entry, wanted: Mapping[ToolId, int]) -> bool:
        if not entry.enabled:
            return False
        known = entry.known
        if known is None or (entry.id in self._changed and self._calm(entry.id)):
            return True
        now = self._clock.now()
        if wanted.get(entry.id, 0) > known.discovered_at:
            return True
        if known.error is not None:
            return now >= known.retry_at
        return now - known.discovered_at > self._settings.ttl * 1000

    def _calm(self, tool: ToolId) -> bool:
        """Whether it may be asked again because it announced a change: one that does so all the time is not."""
        since = time.monotonic() - self._answered.get(tool, float("-inf"))
        return since >= self._pauses.get(tool, 0.0)

    def _note_announced(self, tool: ToolId) -> None:
        """It is asked because of that: the pause until the next time grows while it keeps on."""
        now, pause = time.monotonic(), self._pauses.get(tool, 0.0)
        often = now - self._answered.get(tool, float("-inf")) < 2 * pause + CALM
        self._pauses[tool] = min(max(2 * pause, PAUSE_FIRST), PAUSE_MAX) if often else 0.0
        self._answered[tool] = now

    async def _guarded(self, entry: Entry) -> None:
        """One discovery, if no other worker is at it."""
        About(tool=entry.id, node=self._node).enter()
        lease = self._keys.discovery_lease(entry.id)
        life = int((self._patience(entry) + LEASE_MARGIN) * 1000)
        try:
            with store_errors("taking a discovery lease"):
                mine = await run_async(self._client, "lease_take", [lease], [self._node, life])
            if not mine:
                return
            try:
                # The catalogue may not have read yet what somebody has just stored.
                entry, wanted = await self._reread(entry)
                # Closed: a cancellation that comes with Redis' answer may be lost (python/cpython#86296).
                if self._due(entry, wanted) and not self._closed:
                    await self._discover(entry)
            finally:
                with store_errors("releasing a discovery lease"):
                    await run_async(self._client, "lease_release", [lease], [self._node])
        except StoreUnavailable as error:
            log.warning("discovery_interrupted", tool=entry.id, error=str(error))

    async def _reread(self, entry: Entry) -> tuple[Entry, dict[ToolId, int]]:
        """The entry as Redis has it at this moment, and when a discovery of it was asked for."""
        with store_errors("reading what is known of a tool"):
            known: Any = await self._client.hget(self._keys.registry_capabilities, entry.id)
            wanted: Any = await self._client.hget(self._keys.registry_refresh, entry.id)
        found = None if known is None else capabilities_from_wire(orjson.loads(known))
        return replace(entry, capabilities=found), {entry.id: _moment(wanted)}

    def _patience(self, entry: Entry) -> float:
        return entry.tool.startup_timeout + self._settings.timeout + self._settings.era_probe_timeout

    async def _discover(self, entry: Entry) -> None:
        begun = self._clock.now()
        announced = self._changed.pop(entry.id, set())
        if announced:
            self._note_announced(entry.id)
        try:
            async with asyncio.timeout(self._patience(entry)):
                found = await self._ask(entry, begun)
        except TimeoutError:
            found = self._failure(entry, begun, "the tool did not list its capabilities in time")
        except RpcError as error:
            found = self._failure(entry, begun, f"the tool refused: {error}")
        except GatewayError as error:
            found = self._failure(entry, begun, operator_words(error, entry.tool))
        except Exception:
            log.exception("discovery_broke", tool=entry.id)
            found = self._failure(entry, begun, "the worker failed; its log names the tool")
        counts = dict(entry.known.announced) if entry.known else {}
        counts |= {kind: counts.get(kind, 0) + 1 for kind in announced}
        await self._store.put(entry, replace(found, announced=counts), begun)

    async def _ask(self, entry: Entry, begun: int) -> Capabilities:
        """Connect, learn the eras if they are not known, and list everything in the newest.

        A legacy backend may offer less to a client that it cannot ask, so it is told that it can; what it asks of us
        is refused.
        """
        given = await self._given_to(entry.tool)
        link = self._links(entry.tool, given=given)
        started = time.monotonic()
        backend = await start(entry.tool, link, listing_order(entry), EVERY)
        try:
            spoken = {backend.negotiated.era.value: backend.negotiated.version}
            if entry.known and backend.negotiated.era is Era.MODERN is listing_order(entry)[0]:
                # It was not asked for the other one, which it may speak as before.
                spoken = {**entry.known.eras, **spoken}
            elif to_be_probed(entry, backend):
                modern = await self._modern(entry, given, time.monotonic() - started)
                if modern is not None:
                    await backend.link.close()
                    backend = modern
                    spoken[Era.MODERN.value] = modern.negotiated.version
            found = await all_lists(backend, entry.known, entry.tool.content.hidden_characters)
        finally:
            await backend.link.close()
        listed = replace(
            found,
            tool_version=entry.registered.version,
            discovered_at=begun,
            eras=spoken,
            server_info=backend.negotiated.server_info,
            server_capabilities=backend.negotiated.capabilities,
            instructions=backend.negotiated.instructions,
        )
        return await asyncio.to_thread(self._examined, entry, listed)

    def _examined(self, entry: Entry, found: Capabilities) -> Capabilities:
        """With what the server says of itself looked at, and its names held against those of others."""
        examined = with_server_examined(found, entry.tool.content.hidden_characters)
        alike = islice(resembling(entry, examined, self._catalogue.entries()), MOST_FLAGS)
        return replace(examined, flags=(*examined.flags, *alike)[:MOST_FLAGS])

    async def _modern(self, entry: Entry, given: Injected, startup: float) -> Backend | None:
        """A connection in the modern era to a backend that took the legacy handshake.

        One that is silent to the question speaks only the era it has answered in.
        """
        try:
            async with asyncio.timeout(startup + self._settings.era_probe_timeout):
                link = self._links(entry.tool, given=given)
                return await connect(link, [Era.MODERN])
        except TimeoutError:
            log.info("era_probe_unanswered", tool=entry.id)
        except GatewayError as error:
            log.debug("era_probe_refused", tool=entry.id, error=error.message)
        return None

    def _failure(self, entry: Entry, begun: int, message: str) -> Capabilities:
        """The last good answer stays in use; the error and the next try stand beside it."""
        known = entry.known
        attempts = (known.attempts if known else 0) + 1
        pause = min(self._settings.retry_max, self._settings.retry_min * 2 ** min(attempts - 1, 16))
        retry_at = begun + int(pause * random.uniform(0.8, 1.2) * 1000)  # noqa: S311 - jitter
        log.warning("discovery_failed", tool=entry.id, error=message, attempts=attempts, retry_in=pause)
        base = known or Capabilities(tool_version=entry.registered.version, discovered_at=begun)
        return replace(base, discovered_at=begun, error=message, attempts=attempts, retry_at=retry_at)


def listing_order(entry: Entry) -> list[Era]:
    """The newest era that the last answer says is spoken, for its lists hold the most.

    As for an unknown one after a failure: the backend may be another by now.
    """
    known = entry.known
    if known is None or known.error is not None or not known.eras:
        return opening_order(entry.tool)
    return [Era.MODERN, Era.LEGACY] if Era.MODERN.value in known.eras else [Era.LEGACY, Era.MODERN]


def to_be_probed(entry: Entry, backend: Backend) -> bool:
    """Whether a backend that answered in the legacy era has yet to be asked for the modern one."""
    known = entry.known
    if backend.negotiated.era is Era.MODERN or listing_order(entry)[0] is Era.MODERN:
        return False
    same = known is not None and dict(known.server_info) == dict(backend.negotiated.server_info)
    return not same or known is None or known.error is not None


def operator_words(error: GatewayError, tool: Tool) -> str:
    """The error with what only operators are shown: a child's last words, or what the network said, and what to do."""
    if tool.credentials is not None and refuses_credentials(error):
        return f"{error.message}; credentials.discovery_tenant says as whom the gateway itself asks"
    detail = error.detail if isinstance(error, LinkLost) else ""
    if not detail:
        return error.message
    said = "its standard error ends: " if isinstance(tool.transport, StdioTransport) else ""
    return f"{error.message}; {said}{detail}"


async def all_lists(backend: Backend, known: Capabilities | None, hidden: HiddenCharacters) -> Capabilities:
    """The lists of a backend, what no client can be given of them, and what an operator should look at."""
    found = Capabilities(tool_version=0, discovered_at=0)
    for listing in LISTINGS:
        if listing.capability not in backend.negotiated.capabilities:
            continue
        items = await list_all(backend, listing.method, listing.member)
        before = () if known is None else known.lists[listing.member]
        found = await asyncio.to_thread(_with_list, found, listing, items, before, hidden)
    return found


def _with_list(
    found: Capabilities,
    listing: Listing,
    items: list[Any],
    before: tuple[Mapping[str, Any], ...],
    hidden: HiddenCharacters,
) -> Capabilities:
    good, bad = sorted_out(listing, items, before)
    kept, refused, flags = examined(listing, good, hidden)
    more: Any = {LISTS[listing.member]: kept}
    return replace(
        found, quarantined=(*found.quarantined, *bad, *refused), flags=(*found.flags, *flags), **more
    )


async def list_all(backend: Backend, method: str, member: str) -> list[Any]:
    """All pages of a list. Raises :class:`TransportFailure` for a cursor that never ends."""
    items: list[Any] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        try:
            page = await backend.request(method, {} if cursor is None else {"cursor": cursor})
        except RpcError as error:
            # Of the lists that one capability stands for, a server need not have all.
            if error.code == METHOD_NOT_FOUND and cursor is None:
                return items
            raise
        found = page.get(member)
        if not isinstance(found, list):
            raise TransportFailure(f"the tool's answer to {method} has no list {member!r}")
        items.extend(found)
        following = page.get("nextCursor")
        if not isinstance(following, str) or not following or following == cursor:
            return items
        cursor = following
    raise TransportFailure(f"the tool's {method} has more than {MAX_PAGES} pages")


def _moment(raw: bytes | None) -> int:
    """Milliseconds of Redis time; 0 for what is none."""
    return int(raw) if raw is not None and raw.isdigit() and len(raw) <= MOST_DIGITS else 0
