"""What a backend says outside the calls: that a list of it has changed, or a resource that somebody watches.

A legacy backend says it by itself, of resources once it was asked to (``resources/subscribe``); a modern one says it on
a stream that is asked for with all that is wanted (``subscriptions/listen``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any

import structlog

from common.domain.errors import GatewayError
from common.mcp.listings import LISTINGS
from common.mcp.revisions import Era
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import OnNotification, RpcError

log = structlog.get_logger(__name__)

ACKNOWLEDGED_WITHIN = 1.0
"""Seconds that a backend has to say that it will tell of changes, before whoever waits for that goes on."""
LISTEN_PAUSE = 1.0
MOST_STREAMS = 3
"""Streams at a time: the newest, and those before it while the backend has not spoken on it. The oldest ends."""


class Ears:
    """Of one open backend. One change at a time. Degrades: what a backend does not tell is not heard."""

    def __init__(self, backend: Backend, on_event: OnNotification) -> None:
        self._backend = backend
        self._on_event = on_event
        self._uris: dict[str, None] = {}
        self._streams: list[asyncio.Task[None]] = []
        """Those that may still tell something, the newest last."""

    async def open(self, uris: Collection[str]) -> None:
        """Hear what the backend says, of these resources as well."""
        if uris and self._backend.negotiated.era is Era.MODERN:
            with contextlib.suppress(RpcError):
                await self._relisten(dict.fromkeys(uris))
        for uri in uris:
            with contextlib.suppress(RpcError, GatewayError):
                await self.also(uri)
        if not self._uris:
            with contextlib.suppress(RpcError):
                await self._listen()

    async def also(self, uri: str) -> None:
        """Hear of this resource too. Raises :class:`RpcError` if the backend refuses; then all is as it was."""
        if uri in self._uris:
            return
        if self._backend.negotiated.era is Era.LEGACY:
            await self._backend.request("resources/subscribe", {"uri": uri})
            self._uris = {**self._uris, uri: None}
        else:
            await self._relisten({**self._uris, uri: None})

    async def only(self, uris: Collection[str]) -> None:
        """Hear of no others any more. Raises :class:`RpcError` if the backend refuses."""
        wanted = set(uris)
        gone = [uri for uri in self._uris if uri not in wanted]
        kept = {uri: None for uri in self._uris if uri in wanted}
        if self._backend.negotiated.era is not Era.LEGACY:
            if gone:
                await self._relisten(kept)
            return
        # Given up half-way, it is not known what the backend has heard: whoever wants one of them again subscribes.
        self._uris = kept
        for uri in gone:
            await self._backend.request("resources/unsubscribe", {"uri": uri})

    def close(self) -> None:
        """Hear nothing any more."""
        for stream in self._streams:
            stream.cancel()
        self._streams.clear()

    async def _relisten(self, uris: dict[str, None]) -> None:
        before, self._uris = self._uris, uris
        try:
            await self._listen()
        except RpcError:
            self._uris = before
            raise

    async def _listen(self) -> None:
        """Ask a modern backend for all that is wanted, in the place of what was asked for before.

        The stream before ends when the backend has spoken on the new one, so that nothing is lost between them. What
        comes on both is told twice, which is harmless: an update and a changed list only say that one should look.
        Raises :class:`RpcError` if the backend refuses; then the stream before goes on.
        """
        wanted = self._wanted()
        if self._backend.negotiated.era is not Era.MODERN:
            return
        if not wanted:
            self.close()
            return
        while len(self._streams) >= MOST_STREAMS:
            self._streams.pop(0).cancel()
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream = asyncio.create_task(self._keep_listening(wanted, opened), name="listen")
        self._streams.append(stream)
        await asyncio.wait([opened], timeout=ACKNOWLEDGED_WITHIN)
        if opened.done():
            opened.result()

    def _spoken(self, stream: asyncio.Task[None] | None) -> None:
        """The backend has spoken on this stream: those before it are needed no longer."""
        while stream in self._streams and self._streams[0] is not stream:
            self._streams.pop(0).cancel()

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

    async def _keep_listening(self, wanted: dict[str, Any], opened: asyncio.Future[None]) -> None:
        """``opened`` is done at the backend's first word, or has its refusal."""
        stream = asyncio.current_task()

        def event(method: str, params: dict[str, Any]) -> None:
            if not opened.done():
                opened.set_result(None)
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
            if not opened.done():
                opened.set_exception(error)
                opened.exception()  # whoever waited for it may have gone on
        finally:
            if stream in self._streams:
                self._streams.remove(stream)
