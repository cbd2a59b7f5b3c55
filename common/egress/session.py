"""requests sessions that connect only where they may: for the libraries that speak by requests (hvac, OTLP over HTTP).

As :mod:`common.egress.client` does it for httpx: a name is resolved once, all its addresses have to be good, and one of
those is dialled. Fails closed, as ``requests.ConnectionError`` before a byte is sent. Neither proxies nor ``.netrc`` of
the environment are used, nor its authorities.

requests is slow to import: import this module where it is used.
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.util.connection import create_connection

from common.domain.egress import EgressRules, Judge
from common.egress.deadline import Deadline
from common.egress.judged import good_addresses


def guarded_session(
    rules: EgressRules, *, local: bool, within: float | None = None, most: int | None = None
) -> requests.Session:
    """A session. ``local`` is True only for URLs that the operator's own file names.

    ``within`` is how many seconds one request has in all, to the last byte of its answer, and ``most`` how many bytes
    that may have; both or none are given. With them no redirect is followed. More of either is
    ``requests.RequestException``.
    """
    session = requests.Session() if within is None or most is None else _Bounded(within, most)
    session.trust_env = False
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter(partial(rules.refusal, local=local)))
    return session


class _AtWork(threading.local):
    """Of a thread: the deadline of the request that it sends."""

    deadline: Deadline | None = None


_at_work = _AtWork()


class _Bounded(requests.Session):  # type: ignore[misc]
    """requests' own timeouts begin anew with each byte, and it reads whatever comes."""

    def __init__(self, within: float, most: int) -> None:
        super().__init__()
        self._within = within
        self._most = most
        self.headers["Accept-Encoding"] = "identity"

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        options |= {"stream": True, "allow_redirects": False}
        with Deadline(self._within) as deadline:
            _at_work.deadline = deadline
            try:
                answer = super().send(request, **options)
                body = answer.raw.read(self._most + 1, decode_content=False)
            except (OSError, HTTPError) as error:
                if deadline.over:
                    raise self._late() from error
                if isinstance(error, requests.RequestException):
                    raise
                raise requests.ConnectionError(f"no whole answer: {type(error).__name__}") from error
            finally:
                _at_work.deadline = None
        if deadline.over or len(body) > self._most:
            answer.close()
            raise self._late() if deadline.over else requests.ConnectionError("the answer is too large")
        answer._content, answer._content_consumed = body, True  # noqa: SLF001 - as reading it would
        answer.close()
        return answer

    def _late(self) -> requests.ReadTimeout:
        return requests.ReadTimeout(f"timed out: no whole answer within {self._within:g} s")


class _Adapter(HTTPAdapter):  # type: ignore[misc]
    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._judge)


def _pools(judge: Judge) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's own pools, of connections that dial as we want; what goes on inside stays urllib3's."""

    class Plain(_Watched, HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _watched(_dialled(self, judge))

    class Tls(_Watched, HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _watched(_dialled(self, judge))

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


class _Watched:
    """A connection that was kept ends with the request that takes it up, as one that is dialled for it does."""

    sock: socket.socket | None

    def request(self, *args: Any, **options: Any) -> None:
        if self.sock is not None:
            _watched(self.sock)
        super().request(*args, **options)  # type: ignore[misc]


def _watched(sock: socket.socket) -> socket.socket:
    if _at_work.deadline is not None:
        _at_work.deadline.watch(sock)
    return sock


def _dialled(connection: HTTPConnection, judge: Judge) -> socket.socket:
    """A socket to one of the addresses, which are numbers by now: nothing is resolved again."""
    failure: OSError = OSError("the name has no address")
    try:
        found = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
        addresses = good_addresses(judge, connection.host, found)
    except (OSError, ValueError) as error:  # ValueError: an empty label, or one that is too long
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
