"""Asking providers, one after the other, each on a thread of its own and within its time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from common.domain.credentials import CredentialRequest, Credentials
from common.ports import CredentialsProvider
from gateway_worker.credentials.failure import ProviderFailed, ProviderRefused

log = structlog.get_logger(__name__)

CLOSE_GRACE = 1.0


class Wanted(NamedTuple):
    """Whose credentials, and who is asked for them, in this order."""

    request: CredentialRequest
    providers: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of it: ``credentials`` that ``provider`` knew; none, since nobody did; or why ``provider`` failed.

    ``refused`` tells a failure that is an answer, about those it was asked for, from a provider that is away.
    """

    credentials: Credentials | None = None
    provider: str = ""
    failure: str = ""
    refused: bool = False


class ProviderThread:
    """A provider on an event loop and a thread of its own: one that blocks keeps neither calls nor others waiting."""

    def __init__(self, name: str, provider: CredentialsProvider) -> None:
        self._name = name
        self._provider = provider
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def ask(self, request: CredentialRequest, seconds: float) -> Outcome:
        """Ask it, and wait at most so long. Never raises but for being cancelled."""
        try:
            loop = self._running()
        except (RuntimeError, OSError) as error:
            log.warning("credentials_not_asked", provider=self._name, cause=repr(error))
            return Outcome(provider=self._name, failure="the worker has no thread for it now")
        given = asyncio.run_coroutine_threadsafe(self._asked(request), loop)
        waiting = asyncio.wrap_future(given)
        try:
            await asyncio.wait([waiting], timeout=seconds)
            if waiting.done() and not waiting.cancelled():
                return waiting.result()
        finally:
            given.cancel()
        return Outcome(provider=self._name, failure=f"no answer within {seconds:g} s")

    async def _asked(self, request: CredentialRequest) -> Outcome:
        try:
            found: object = await self._provider.resolve(request)
        except asyncio.CancelledError:
            raise
        except ProviderFailed as error:
            refused = isinstance(error, ProviderRefused)
            return Outcome(provider=self._name, failure=str(error), refused=refused)
        except BaseException as error:  # noqa: BLE001 - whatever a provider does, it does it to itself
            # Not its words: they may hold a secret.
            return Outcome(provider=self._name, failure=type(error).__name__)
        if found is None:
            return Outcome()
        if not isinstance(found, Credentials):
            return Outcome(provider=self._name, failure=f"it answered with {type(found).__name__}")
        if found.expires_in == 0:
            return Outcome(provider=self._name, failure="what it knows has expired")
        return Outcome(credentials=found, provider=self._name) if found.values else Outcome()

    def close(self) -> None:
        """Stop its thread; one that is blocked is left to the end of the process."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_GRACE)
        if not self._thread.is_alive():
            self._loop.close()
        self._loop = self._thread = None

    def _running(self) -> asyncio.AbstractEventLoop:
        """Its loop. Raises :class:`RuntimeError` or :class:`OSError` if there is no thread or descriptor to be had."""
        if self._loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name=f"credentials-{self._name}", daemon=True)
            try:
                thread.start()
            except BaseException:
                loop.close()
                raise
            self._loop, self._thread = loop, thread
        return self._loop


class Providers:
    """All that the settings name."""

    def __init__(self, providers: Mapping[str, CredentialsProvider], *, timeout: float) -> None:
        """``timeout`` is how many seconds each one has."""
        self._threads = {name: ProviderThread(name, provider) for name, provider in providers.items()}
        self._timeout = timeout

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the settings."""
        return tuple(self._threads)

    @property
    def longest(self) -> float:
        """Seconds after which every answer that is waited for now is there."""
        return self._timeout * len(self._threads) + CLOSE_GRACE

    async def ask(self, wanted: Wanted) -> Outcome:
        """Ask them until one knows. One that fails ends it: it may have known others than the next one does."""
        for name in wanted.providers:
            thread = self._threads.get(name)
            if thread is None:
                return Outcome(provider=name, failure="it is not among credentials.providers")
            outcome = await thread.ask(wanted.request, self._timeout)
            if outcome.failure or outcome.credentials is not None:
                return outcome
        return Outcome()

    def close(self) -> None:
        """Stop their threads."""
        for thread in self._threads.values():
            thread.close()


def names_of(named: Sequence[str], providers: Providers) -> tuple[str, ...]:
    """Those that a tool names; all if it names none."""
    return tuple(named) or providers.names
