"""Asking servers that know secrets: in bounded time and size, led nowhere else, and again if what failed may pass."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import httpx

from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.egress.client import guarded_async_client
from common.mcp.jsonrpc import JsonRpcError, strict_json
from common.tls import TlsFileError, client_context
from gateway_worker.credentials.failure import ProviderFailed

MOST_BYTES = 256 << 10
"""Largest answer that is read."""
PAUSES = (0.2, 0.6)
"""Seconds before each further attempt at a server that is away or has too much to do."""
LONGEST_PAUSE = 5.0
_PASSING = frozenset((429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Question:
    """One request. What is in it is secret."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


class Answer(NamedTuple):
    """What came back, whatever its status."""

    status: int
    body: bytes
    retry_after: str = ""

    @property
    def document(self) -> dict[str, Any] | None:
        """The JSON object that it is; None if it is none."""
        try:
            found = strict_json(self.body)
        except JsonRpcError:
            return None
        return found if isinstance(found, dict) else None


def may_pass(answer: Answer) -> bool:
    """Whether the server has too much to do, or trouble of its own."""
    return answer.status in _PASSING


class GuardedHttp:
    """For one server. Keeps no connection: such servers are asked once in a secret's life."""

    def __init__(self, what: str, rules: EgressRules, timeout: float, tls: ssl.SSLContext) -> None:
        """``what`` is what failures call the server, ``timeout`` in seconds is for each step."""
        self.what = what
        self._rules = rules
        self._timeout = timeout
        self._tls = tls

    async def ask(self, make: Callable[[], Question], passing: Callable[[Answer], bool] = may_pass) -> Answer:
        """The answer to what ``make`` makes, anew for each attempt. ``credentials.timeout`` bounds it all.

        Raises :class:`ProviderFailed` if there is none; the last one, if it says to come again, is returned as it is.
        """
        for pause in PAUSES:
            found = await self._tried(make)
            wait = 0.0
            if isinstance(found, Answer):
                wait = _seconds(found.retry_after)
                if not passing(found) or wait > LONGEST_PAUSE:
                    return found
            await asyncio.sleep(max(pause, wait))
        last = await self._tried(make)
        if isinstance(last, ProviderFailed):
            raise last
        return last

    async def _tried(self, make: Callable[[], Question]) -> Answer | ProviderFailed:
        try:
            return await self._once(make())
        except httpx.HTTPError as error:
            return ProviderFailed(f"{self.what} cannot be asked: {type(error).__name__}")

    async def _once(self, question: Question) -> Answer:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **question.headers}
        async with (
            guarded_async_client(
                self._rules, local=True, tls=self._tls, timeout=self._timeout, connections=1
            ) as client,
            client.stream(question.method, question.url, content=question.body, headers=headers) as answer,
        ):
            found = bytearray()
            async for piece in answer.aiter_raw():
                found += piece
                if len(found) > MOST_BYTES:
                    raise ProviderFailed(f"{self.what} answers with more than {MOST_BYTES} bytes")
            return Answer(answer.status_code, bytes(found), answer.headers.get("retry-after", ""))


def trust_of(ca_file: str | None, where: str) -> ssl.SSLContext:
    """Whom to trust by ``<where>.ca_file``; the system's are read once. Raises :class:`ConfigurationError`."""
    if ca_file is None:
        return _system()
    try:
        return client_context(TlsRules(ca_file=ca_file))
    except TlsFileError as error:
        raise ConfigurationError(f"{where}.ca_file: {error}", field=f"{where}.ca_file") from None


@cache
def _system() -> ssl.SSLContext:
    return client_context()


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
