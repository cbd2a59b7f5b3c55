"""httpx clients that connect only where they may.

A name is resolved once; if all its addresses are good, one of *those* is dialled: an answer that changes between the
look and the connection changes nothing. Redirects are not followed, and if a caller asks for it, each is judged like
any other connection. Proxies named in the environment are not used. Fails closed: what may not be
connected to, and what cannot be resolved, is :class:`httpx.ConnectError` before a byte is sent.

httpx is slow to import (80 ms): import this module where it is used.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from functools import partial
from typing import Any

import httpcore
import httpx

from common.domain.egress import EgressRules, Judge
from common.egress.deadline import Deadline
from common.egress.judged import good_addresses

MAX_CONNECTIONS = 100
DEFAULT_TIMEOUT = 5.0
AsyncGuarded = httpx.AsyncClient
"""What :func:`guarded_async_client` makes: the name for annotations."""


def guarded_client(
    rules: EgressRules,
    *,
    local: bool,
    tls: ssl.SSLContext | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    connections: int = MAX_CONNECTIONS,
    deadline: Deadline | None = None,
    **more: Any,
) -> httpx.Client:
    """A blocking client. ``local`` is True only for URLs that the operator's own file names.

    ``tls`` is the system's trust unless given; ``timeout`` is in seconds, for each step; ``connections`` are the most
    at a time, who comes beyond waits for one (``timeout`` is for that, too); ``deadline`` is for all that the client
    does; ``more`` are :class:`httpx.Client`'s own arguments (headers, auth, base_url).
    """
    transport = GuardedTransport(partial(rules.refusal, local=local), tls, connections, deadline)
    return httpx.Client(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False, **more)


def guarded_async_client(
    rules: EgressRules,
    *,
    local: bool,
    tls: ssl.SSLContext | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    connections: int = MAX_CONNECTIONS,
    **more: Any,
) -> httpx.AsyncClient:
    """The same for asyncio."""
    transport = AsyncGuardedTransport(partial(rules.refusal, local=local), tls, connections)
    return httpx.AsyncClient(
        transport=transport, timeout=timeout, trust_env=False, follow_redirects=False, **more
    )


class GuardedTransport(httpx.HTTPTransport):
    """httpx's own transport on a guarded network."""

    def __init__(
        self,
        judge: Judge,
        tls: ssl.SSLContext | None = None,
        connections: int = MAX_CONNECTIONS,
        deadline: Deadline | None = None,
    ) -> None:
        """``judge`` tells why a host with these addresses may not be connected to, or None."""
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=connections,
            keepalive_expiry=4.0,
            network_backend=_Network(judge, deadline),
        )


class AsyncGuardedTransport(httpx.AsyncHTTPTransport):
    """The same for asyncio."""

    def __init__(
        self, judge: Judge, tls: ssl.SSLContext | None = None, connections: int = MAX_CONNECTIONS
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or ssl.create_default_context(),
            max_connections=connections,
            keepalive_expiry=4.0,
            network_backend=_AsyncNetwork(judge),
        )


class _Network(httpcore.NetworkBackend):
    def __init__(self, judge: Judge, deadline: Deadline | None) -> None:
        self._judge = judge
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:  # ValueError: an empty label, or one that is too long
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in _judged(self._judge, host, found):
            try:
                stream = self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                if self._deadline is not None:
                    self._deadline.watch(stream.get_extra_info("socket"))
                return stream
        raise failure


class _AsyncNetwork(httpcore.AsyncNetworkBackend):
    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:  # a TimeoutError too; ValueError as above
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in _judged(self._judge, host, found):
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


def _judged(judge: Judge, host: str, found: Iterable[Any]) -> list[str]:
    try:
        return good_addresses(judge, host, found)
    except PermissionError as error:
        raise httpcore.ConnectError(str(error)) from error
