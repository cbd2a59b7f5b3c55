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
from common.discovery.kube_services import Entries, Place, entries_of, place_in, place_of, slim, too_many
from common.discovery.partial import Partial
from common.discovery.unfit import MOST_TOOLS
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.domain.tool import HttpTransport, Tool
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
    where that is too old. With a refusal (401, 403, 404), failures for a minute or too many services a namespace is at
    fault: its tools stay, operators are told (:class:`Partial`), and what the others say goes on. Only where all are
    at fault :class:`ConfigurationError` is raised. Nothing is named before each namespace has been listed or is at
    fault.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        rules: EgressRules,
        present: Callable[[], Mapping[str, Tool]] = dict,
    ) -> None:
        """``rules`` judge the API server's address as one of the operator's own file. Raises ConfigurationError.

        ``present``: the tools that are registered as this source's, of a time before it began.
        """
        server_url(settings)
        self._settings = settings
        self._rules = rules
        self._present = present
        self._known = Known()
        self._owners: dict[str, Place] = {}
        """Of ids that are not a place's own."""

    def watch(self, wanted: Callable[[], bool]) -> Iterator[Entries]:
        """All tools as soon as all namespaces are listed, and again whenever one is another."""
        with asyncio.Runner() as runner:
            changed = asyncio.Event()
            followers = runner.run(self._begin(changed))
            last: tuple[Entries, str] | None = None
            try:
                while wanted():
                    if not runner.run(self._wait(changed, followers)):
                        continue
                    entries = self._entries()
                    if entries is None:
                        continue
                    now = (entries, entries.fault if isinstance(entries, Partial) else "")
                    if now != last:
                        last = now
                        yield entries
            finally:
                runner.run(self._end(followers))

    async def _begin(self, changed: asyncio.Event) -> list[asyncio.Task[None]]:
        self._known = Known()
        self._owners = await asyncio.to_thread(self._present_owners)
        try:
            tls = await asyncio.to_thread(client_context, TlsRules(ca_file=self._settings.ca_file))
        except TlsFileError as error:
            raise ConfigurationError(str(error)) from error
        self._client = guarded_async_client(self._rules, local=True, tls=tls)
        api = KubeApi(self._client, self._settings)
        return [
            asyncio.create_task(_Follower(api, namespace, self._settings, self._known, changed).run())
            for namespace in self._namespaces
        ]

    @property
    def _namespaces(self) -> tuple[str, ...]:
        return self._settings.namespaces or ("",)

    def _present_owners(self) -> dict[str, Place]:
        places = ((tool, self._place_of(found)) for tool, found in self._present().items())
        return {tool: place for tool, place in places if place is not None and tool != place.id}

    def _place_of(self, tool: Tool) -> Place | None:
        return (
            place_in(tool.transport.url, self._settings)
            if isinstance(tool.transport, HttpTransport)
            else None
        )

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
        """None while there is something to wait for. Raises :class:`ConfigurationError` if nothing can be seen."""
        known, faults = self._known.services, dict(self._known.faults)
        if any(namespace not in known and namespace not in faults for namespace in self._namespaces):
            return None
        if len(faults) == len(self._namespaces):
            raise ConfigurationError("; ".join(sorted(faults.values())))
        seen = {
            place: found
            for part, services in known.items()
            if part not in faults
            for place, found in services.items()
        }
        for namespace in too_many(seen, self._settings.most_services, MOST_TOOLS):
            # Without the number: each change of it would be told anew.
            faults[namespace] = f"namespace {namespace} has too many services"
        services = {place: found for place, found in seen.items() if place.namespace not in faults}
        entries = entries_of(services, self._settings, self._owners, faults.__contains__)
        return (
            Partial(entries, "; ".join(sorted(faults.values())), self._kept(frozenset(faults)))
            if faults
            else entries
        )

    def _kept(self, faulty: frozenset[str]) -> Callable[[Tool], bool]:
        def kept(tool: Tool) -> bool:
            place = self._place_of(tool)
            return place is not None and place.namespace in faulty

        return kept

    async def _end(self, followers: list[asyncio.Task[None]]) -> None:
        for task in followers:
            task.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        with suppress(httpx.HTTPError):
            await self._client.aclose()


class Known:
    """What followers have seen."""

    def __init__(self) -> None:
        self.services: dict[str, Services] = {}
        """By namespace; none for those that have not been listed."""
        self.faults: dict[str, str] = {}
        """By namespace, in words for operators."""


class _Follower:
    """Of one namespace: lists it, and watches it from there on."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        settings: KubernetesSettings,
        known: Known,
        changed: asyncio.Event,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._settings = settings
        self._seconds = settings.watch_timeout
        self._known = known
        self._changed = changed
        self._version = ""
        """From which to watch; empty: it is to be listed."""
        self._good = time.monotonic()
        self._watched = False
        """Whether the last watch said anything, or lasted."""

    async def run(self) -> None:
        """For ever. What does not pass by itself is noted, and tried again from the start."""
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
                    place = f" for namespace {self._namespace}" if self._namespace else ""
                    self._fail(f"the API server{place}: {error}")
                after = min(error.after, PATIENCE)
                log.debug("kubernetes_waits", namespace=self._namespace, cause=str(error))
            except ConfigurationError as error:
                self._fail(error.message)
            # What ends at once, also by its time, is not to be asked again and again.
            delay = AGAIN_FIRST if self._watched else min(delay * 2, AGAIN_MAX)
            await asyncio.sleep(max(after, delay * random.uniform(0.5, 1.0)))  # noqa: S311 - jitter

    def _fail(self, words: str) -> None:
        self._version = ""
        self._known.faults[self._namespace] = words
        self._changed.set()

    async def _list(self) -> None:
        found: Services = {}

        def keep(item: Mapping[str, Any]) -> None:
            if (place := place_of(item)) is not None:
                found[place] = slim(item, self._settings)

        version = await self._api.list(self._namespace, keep)
        self._known.services[self._namespace], self._version = found, version
        self._good = time.monotonic()
        self._changed.set()

    async def _watch(self) -> None:
        seconds = int(self._seconds * random.uniform(1.0, 1.2))  # noqa: S311 - not all at the same time
        begun = time.monotonic()
        async for event in self._api.watch(self._namespace, self._version, seconds):
            if event.kind == "OPENED":
                # Not with the list already: who may list and not watch would be at fault by turns.
                if self._known.faults.pop(self._namespace, ""):
                    self._changed.set()
                continue
            self._watched, self._good, self._version = True, time.monotonic(), event.version
            place = place_of(event.item)
            if event.kind == "BOOKMARK" or place is None:
                continue
            services = self._known.services[self._namespace]
            if event.kind == "DELETED":
                services.pop(place, None)
            elif event.kind in ("ADDED", "MODIFIED"):
                services[place] = slim(event.item, self._settings)
            self._changed.set()
        self._good = time.monotonic()
        self._watched = self._watched or self._good - begun > SHORTEST
