"""What a backend says outside the calls: that a list of it has changed, or a resource that somebody watches.

A legacy backend says it by itself, of resources once it was asked to (``resources/subscribe``); a modern one says it on
a stream that is asked for with all that is wanted (``subscriptions/listen``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import structlog

from common.domain.errors import GatewayError
from common.mcp.listings import LISTINGS
from common.mcp.revisions import Era
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import OnNotification, RpcError
from gateway_worker.turns import Stay

log = structlog.get_logger(__name__)

ACKNOWLEDGED_WITHIN = 1.0
"""Seconds that a backend has to say that it will tell of changes, before whoever waits for that goes on."""
SORTED_WITHIN = 5.0
"""Seconds that it has, when it refused others before, to refuse one resource alone."""
LISTEN_PAUSE = 1.0
MOST_STREAMS = 3
"""Streams at a time: the one that the backend speaks on, and the newest of those where it has not spoken yet."""


@dataclass(slots=True, eq=False)
class _Stream:
    """``opened`` is done at the backend's first word, or has its refusal. ``waited_for``: somebody looks at it."""

    uris: dict[str, None]
    opened: asyncio.Future[None]
    waited_for: bool = True
    spoken: bool = False
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def end(self) -> None:
        for task in self.tasks:
            task.cancel()


class Ears:
    """Of one open backend. Degrades: what a backend does not tell is not heard."""

    def __init__(
        self,
        backend: Backend,
        on_event: OnNotification,
        on_refused: Callable[[str], None] = lambda _uri: None,
    ) -> None:
        """``on_refused`` hears of a resource that the backend refused when nobody waited for that any more."""
        self._backend = backend
        self._on_event = on_event
        self._on_refused = on_refused
        self._changing = asyncio.Lock()
        """One change at a time."""
        self._uris: dict[str, None] = {}
        self._granted: set[str] = set()
        """Those of which a modern backend has said that it tells."""
        self._suspects: dict[str, None] = {}
        """Those asked for together that were refused: one of them alone may be the reason. Not heard meanwhile."""
        self._sorting: asyncio.Task[None] | None = None
        self._streams: list[_Stream] = []
        """Those that may still tell something, the newest last; at most the first has spoken."""

    @property
    def _modern(self) -> bool:
        return self._backend.negotiated.era is Era.MODERN

    async def open(self, uris: Collection[str]) -> None:
        """Hear what the backend says, of these resources as well; of those it refuses, or is silent about, never."""
        if uris and self._modern:
            async with self._changing:
                with contextlib.suppress(RpcError):
                    await self._relisten(dict.fromkeys(uris))
        for uri in uris:
            with contextlib.suppress(RpcError, GatewayError, TimeoutError):
                async with asyncio.timeout(SORTED_WITHIN):
                    await self.also(uri, Stay())
        async with self._changing:
            if not self._uris:
                with contextlib.suppress(RpcError):
                    await self._listen()

    async def also(self, uri: str, stay: Stay) -> None:
        """Hear of this resource too. Raises :class:`RpcError` if the backend refuses; then all is as it was."""
        async with self._changing:
            self._suspects.pop(uri, None)
            if uri in self._uris:
                return
            if self._modern:
                await self._add(uri, ACKNOWLEDGED_WITHIN)
                return
            with stay.sending() as settled:
                await self._backend.request("resources/subscribe", {"uri": uri}, on_settled=settled)
            self._uris[uri] = None

    async def only(self, uris: Collection[str], stay: Stay) -> None:
        """Hear of no others any more. Raises :class:`RpcError` if the backend refuses."""
        wanted = set(uris)
        async with self._changing:
            self._suspects = {uri: None for uri in self._suspects if uri in wanted}
            gone = [uri for uri in self._uris if uri not in wanted]
            kept = {uri: None for uri in self._uris if uri in wanted}
            if self._modern:
                if gone:
                    await self._relisten(kept)
                return
            # Given up half-way, it is not known what the backend has heard: whoever wants one again subscribes.
            self._uris = kept
            for uri in gone:
                with stay.sending() as settled:
                    await self._backend.request("resources/unsubscribe", {"uri": uri}, on_settled=settled)

    def close(self) -> None:
        """Hear nothing any more."""
        if self._sorting is not None:
            self._sorting.cancel()
        self._end_streams()

    def _end_streams(self) -> None:
        for stream in self._streams:
            stream.end()
        self._streams.clear()

    async def _relisten(self, uris: dict[str, None]) -> None:
        before, self._uris = self._uris, uris
        try:
            await self._listen()
        except RpcError:
            self._uris = {uri: None for uri in before if uri not in self._suspects}
            raise

    async def _add(self, uri: str, seconds: float) -> None:
        """One more resource. Raises :class:`RpcError` if it is what the backend refuses."""
        try:
            for _ in range(2):
                self._uris[uri] = None
                others = [u for u in self._uris if u != uri and u not in self._granted]
                try:
                    await self._listen(seconds)
                except RpcError:
                    if not others:
                        raise
                    # It may be one of those: once more without them.
                    self._suspect(others)
                else:
                    return
        except BaseException:
            self._uris.pop(uri, None)
            raise

    async def _listen(self, seconds: float | None = None) -> None:
        """Ask a modern backend for all that is wanted, in the place of what was asked for before.

        The stream before ends when the backend has spoken on the new one, so that nothing is lost between them. What
        comes on both is told twice, which is harmless: an update and a changed list only say that one should look.
        Raises :class:`RpcError` if the backend refuses in time; then the stream before goes on. What it refuses later
        is sorted out aside.
        """
        wanted = self._wanted()
        if not self._modern:
            return
        if not wanted:
            self._end_streams()
            return
        while len(self._streams) >= MOST_STREAMS:
            # The one that tells something is kept, whatever becomes of the others.
            self._streams.pop(int(self._streams[0].spoken)).end()
        stream = _Stream(dict(self._uris), asyncio.get_running_loop().create_future())
        stream.tasks.append(asyncio.create_task(self._keep_listening(wanted, stream), name="listen"))
        self._streams.append(stream)
        try:
            await asyncio.wait([stream.opened], timeout=ACKNOWLEDGED_WITHIN if seconds is None else seconds)
        finally:
            stream.waited_for = False
        if stream.opened.done():
            stream.opened.result()

    def _spoken(self, stream: _Stream) -> None:
        """The backend has spoken on this stream: those before it are needed no longer."""
        if not stream.spoken:
            stream.spoken = True
            self._granted = (self._granted | stream.uris.keys()) & self._uris.keys()
        while stream in self._streams and self._streams[0] is not stream:
            self._streams.pop(0).end()

    def _wanted(self) -> dict[str, Any]:
        offered = self._backend.negotiated.capabilities
        wanted: dict[str, Any] = {
            f"{kind}ListChanged": True
            for kind in dict.fromkeys(listing.capability for listing in LISTINGS)
            if isinstance(offered.get(kind), dict) and offered[kind].get("listChanged") is True
        }
        if self._uris:
            wanted["resourceSubscriptions"] = list(self._uris)
        return wanted

    async def _keep_listening(self, wanted: dict[str, Any], stream: _Stream) -> None:
        def event(method: str, params: dict[str, Any]) -> None:
            if not stream.opened.done():
                stream.opened.set_result(None)
            self._spoken(stream)
            self._on_event(method, params)

        try:
            while not self._backend.link.closed.is_set():
                try:
                    await self._backend.request(
                        "subscriptions/listen", {"notifications": wanted}, on_notification=event
                    )
                except GatewayError as error:
                    log.debug("backend_stream_broke", error=error.message)
                await asyncio.sleep(LISTEN_PAUSE)
        except RpcError as error:
            log.debug("backend_not_heard", error=str(error))
            self._refused(stream, error)
        finally:
            if stream in self._streams:
                self._streams.remove(stream)

    # -- what is refused late -------------------------------------------------------------------------------

    def _refused(self, stream: _Stream, error: RpcError) -> None:
        """Tell whoever waits. If nobody does any more, find out which of its resources are the reason."""
        if stream in self._streams:
            self._streams.remove(stream)
        if not stream.opened.done():
            stream.opened.set_exception(error)
            stream.opened.exception()  # whoever waited for it may have gone on
        if not stream.waited_for:
            self._suspect([uri for uri in stream.uris if uri not in self._granted] or stream.uris)

    def _suspect(self, uris: Collection[str]) -> None:
        """Want these no more, until each was asked for alone."""
        found = [uri for uri in uris if uri in self._uris]
        for uri in found:
            del self._uris[uri]
            self._granted.discard(uri)
            self._suspects[uri] = None
        for stream in [s for s in self._streams if not s.spoken and not s.waited_for]:
            if not stream.uris.keys().isdisjoint(found):
                self._streams.remove(stream)
                stream.end()
        if found and (self._sorting is None or self._sorting.done()):
            self._sorting = asyncio.create_task(self._sort(), name="listen-sort")

    async def _sort(self) -> None:
        """Hear again of what is not suspected; then ask for each suspect alone."""
        async with self._changing:
            try:
                if not any(stream.spoken and stream.uris == self._uris for stream in self._streams):
                    await self._listen()
            except RpcError:
                self._suspect(list(self._uris))
        while self._suspects and not self._backend.link.closed.is_set():
            async with self._changing:
                uri = next(iter(self._suspects), None)
                if uri is not None:
                    del self._suspects[uri]
                    await self._try(uri)

    async def _try(self, uri: str) -> None:
        try:
            await self._add(uri, SORTED_WITHIN)
        except RpcError as error:
            log.info("backend_refuses_resource", error=str(error))
            self._on_refused(uri)
        else:
            # One that is not refused so long is no reason to suspect it again for the next one's sake.
            if uri in self._uris:
                self._granted.add(uri)
