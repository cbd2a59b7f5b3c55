"""requests sessions that connect only where they may: for the libraries that speak by requests (hvac, OTLP over HTTP).

As :mod:`common.egress.client` does it for httpx: a name is resolved once, all its addresses have to be good, and one of
those is dialled. Fails closed, as ``requests.ConnectionError`` before a byte is sent. Neither proxies nor ``.netrc`` of
the environment are used, nor its authorities.

requests is slow to import: import this module where it is used.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.util.connection import create_connection

from common.domain.egress import EgressRules, Judge
from common.egress.judged import good_addresses


def guarded_session(rules: EgressRules, *, local: bool) -> requests.Session:
    """A session. ``local`` is True only for URLs that the operator's own file names."""
    session = requests.Session()
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(partial(rules.refusal, local=local)))
    return session


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._judge)


def _pools(judge: Judge) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's own pools, of connections that dial as we want; what goes on inside stays urllib3's."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _dialled(self, judge)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _dialled(self, judge)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _dialled(connection: HTTPConnection, judge: Judge) -> socket.socket:
    """A socket to one of the addresses, which are numbers by now: nothing is resolved again."""
    failure: OSError = OSError("the name has no address")
    try:
        found = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
        addresses = good_addresses(judge, connection.host, found)
    except OSError as error:
        raise NewConnectionError(connection, str(error)) from error
    for address in addresses:
        try:
            return create_connection(
                (address, connection.port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, f"{connection.host}: not connected in time") from failure
    raise NewConnectionError(connection, str(failure)) from failure
