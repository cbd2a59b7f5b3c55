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


class Ears:
    """Of one open backend. Degrades: what a backend refuses to tell is not heard."""

    def __init__(self, backend: Backend, on_event: OnNotification) -> None:
        self._backend = backend
        self._on_event = on_event
        self._uris: tuple[str, ...] = ()
        self._stream: asyncio.Task[None] | None = None

    async def open(self, uris: Collection[str]) -> None:
        """Hear what the backend says, of these resources as well."""
        for uri in uris:
            with contextlib.suppress(RpcError, GatewayError):
                await self.watch([*self._uris, uri])
        if self._stream is None:
            await self._listen()

    async def watch(self, uris: Collection[str]) -> None:
        """Hear of these resources, and no longer of others. Raises :class:`RpcError` if the backend refuses one."""
        new, gone = [uri for uri in uris if uri not in self._uris], set(self._uris) - set(uris)
        if self._backend.negotiated.era is Era.LEGACY:
            for uri in new:
                await self._backend.request("resources/subscribe", {"uri": uri})
            for uri in gone:
                await self._backend.request("resources/unsubscribe", {"uri": uri})
            self._uris = tuple(uris)
        elif new or gone:
            self._uris = tuple(uris)
            await self._listen()

    def close(self) -> None:
        """Hear nothing any more."""
        if self._stream is not None:
            self._stream.cancel()

    async def _listen(self) -> None:
        """Ask a modern backend for all that is wanted, in the place of what was asked for before."""
        wanted = self._wanted()
        if self._backend.negotiated.era is not Era.MODERN or not wanted:
            return
        self.close()
        heard = asyncio.Event()

        def event(method: str, params: dict[str, Any]) -> None:
            heard.set()
            self._on_event(method, params)

        self._stream = asyncio.create_task(self._keep_listening(wanted, event), name="listen")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN):
                await heard.wait()

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

    async def _keep_listening(self, wanted: dict[str, Any], event: OnNotification) -> None:
        backend = self._backend
        while not backend.link.closed.is_set():
            try:
                await backend.request(
                    "subscriptions/listen", {"notifications": wanted}, on_notification=event
                )
            except RpcError as error:
                log.debug("backend_not_heard", error=str(error))
                return
            except GatewayError as error:
                log.debug("backend_stream_broke", error=error.message)
            await asyncio.sleep(LISTEN_PAUSE)
