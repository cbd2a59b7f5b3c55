"""Tools that are Services of a Kubernetes cluster, chosen by label: listed once, then watched."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpx
import structlog

from common.discovery.kube_api import Gone, KubeApi, Passing, server_url
from common.discovery.kube_services import Entries, Place, entries_of, place_of
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.egress.client import guarded_async_client
from common.settings.kubernetes import KubernetesSettings
from common.tls import TlsFileError, client_context

log = structlog.get_logger(__name__)

LOOK = 0.5
"""Seconds between two looks whether it is wanted."""
AGAIN_FIRST, AGAIN_MAX = 0.5, 15.0
"""Seconds before what failed is tried again; each time twice as many, less up to a half by chance."""
PATIENCE = 60.0
"""Seconds of failures after which the source is at fault; shorter ones are nobody's business."""
SHORTEST = 1.0
"""Seconds that a watch without any event must last to be one."""
SETTLING = 0.1
"""Seconds in which changes that come together are told together."""
Services = dict[Place, Mapping[str, Any]]


class KubernetesSource:
    """Implements ``common.ports.Discovery``.

    What the API server cannot be asked changes nothing: it is tried again, from the last version seen, and listed anew
    where that is too old. A refusal (401, 403), and failures for a minute, are raised as
    :class:`ConfigurationError`: the tools stay, operators are told, and a new source begins from the start. Nothing is
    named before all namespaces have been listed.
    """

    def __init__(self, settings: KubernetesSettings, rules: EgressRules) -> None:
        """``rules`` judge the API server's address as one of the operator's own file. Raises ConfigurationError."""
        server_url(settings)
        self._settings = settings
        self._rules = rules
        self._services: dict[str, Services] = {}
        """By namespace; none for those that have not been listed."""

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Entries]:
        """All tools as soon as all namespaces are listed, and again whenever one is another."""
        with asyncio.Runner() as runner:
            changed = asyncio.Event()
            followers = runner.run(self._begin(changed))
            last: Entries | None = None
            try:
                while wanted():
                    if not runner.run(self._wait(changed, followers)):
                        continue
                    entries = self._entries()
                    if entries is not None and entries != last:
                        last = entries
                        yield entries
            finally:
                runner.run(self._end(followers))

    async def _begin(self, changed: asyncio.Event) -> list[asyncio.Task[None]]:
        self._services.clear()
        try:
            tls = await asyncio.to_thread(client_context, TlsRules(ca_file=self._settings.ca_file))
        except TlsFileError as error:
            raise ConfigurationError(str(error)) from error
        self._client = guarded_async_client(self._rules, local=True, tls=tls)
        api = KubeApi(self._client, self._settings)
        return [
            asyncio.create_task(_Follower(api, namespace, self._settings, self._services, changed).run())
            for namespace in self._settings.namespaces or ("",)
        ]

    @staticmethod
    async def _wait(changed: asyncio.Event, followers: list[asyncio.Task[None]]) -> bool:
        """Whether something changed. Raises what a follower raised."""
        waiting = asyncio.create_task(changed.wait())
        done, _ = await asyncio.wait([waiting, *followers], timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for task in done - {waiting}:
            task.result()
        if not changed.is_set():
            return False
        await asyncio.sleep(SETTLING)
        changed.clear()
        return True

    def _entries(self) -> Entries | None:
        if len(self._services) < len(self._settings.namespaces or ("",)):
            return None
        services = {place: found for part in self._services.values() for place, found in part.items()}
        return entries_of(services, self._settings)

    async def _end(self, followers: list[asyncio.Task[None]]) -> None:
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        with suppress(httpx.HTTPError):
            await self._client.aclose()


class _Follower:
    """Of one namespace: lists it, and watches it from there on."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        settings: KubernetesSettings,
        known: dict[str, Services],
        changed: asyncio.Event,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._seconds = settings.watch_timeout
        self._known = known
        self._changed = changed
        self._version = ""
        """From which to watch; empty: it is to be listed."""
        self._good = time.monotonic()
        self._watched = False
        """Whether the last watch said anything, or lasted."""

    async def run(self) -> None:
        """For ever. Raises :class:`ConfigurationError` for what does not pass by itself."""
        delay = AGAIN_FIRST
        while True:
            self._watched, after = False, 0.0
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Gone:
                log.info("kubernetes_listed_anew", namespace=self._namespace)
                self._version = ""
            except Passing as error:
                if time.monotonic() - self._good > PATIENCE:
                    raise ConfigurationError(f"the API server: {error}") from error
                after = min(error.after, PATIENCE)
                log.debug("kubernetes_waits", namespace=self._namespace, cause=str(error))
            # What ends at once, also by its time, is not to be asked again and again.
            delay = AGAIN_FIRST if self._watched else min(delay * 2, AGAIN_MAX)
            await asyncio.sleep(max(after, delay * random.uniform(0.5, 1.0)))  # noqa: S311 - jitter

    async def _list(self) -> None:
        items, version = await self._api.list(self._namespace)
        found: Services = {place: item for item in items if (place := place_of(item)) is not None}
        self._known[self._namespace], self._version = found, version
        self._good = time.monotonic()
        self._changed.set()

    async def _watch(self) -> None:
        seconds = int(self._seconds * random.uniform(1.0, 1.2))  # noqa: S311 - not all at the same time
        begun = time.monotonic()
        async for event in self._api.watch(self._namespace, self._version, seconds):
            self._watched, self._good, self._version = True, time.monotonic(), event.version
            place = place_of(event.item)
            if event.kind == "BOOKMARK" or place is None:
                continue
            services = self._known[self._namespace]
            if event.kind == "DELETED":
                services.pop(place, None)
            elif event.kind in ("ADDED", "MODIFIED"):
                services[place] = event.item
            self._changed.set()
        self._good = time.monotonic()
        self._watched = self._watched or self._good - begun > SHORTEST
