"""Is it ready? For HTTP and Redis servers, as a question to ask again and as a wait."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from gateway_web.supervisor.errors import ReadinessTimeoutError, RedisUnreachableError
from gateway_web.supervisor.ping import ping
from gateway_web.supervisor.redis_url import RedisUrl

_INTERVAL = 0.05


def http_ready(url: str, *, timeout: float = 1.0, tls: ssl.SSLContext | None = None) -> Callable[[], bool]:
    """A question for ``ChildSpec.ready``: does a GET of ``url`` answer 200?

    Args:
        tls: how to trust the server, for https.

    Raises:
        ValueError: ``url`` is not an http URL with a host, or with ``tls`` not one of https.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if parts.scheme != ("http" if tls is None else "https") or host is None:
        raise ValueError(f"{url} is not an http URL")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def ready() -> bool:
        connection = (
            http.client.HTTPConnection(host, port, timeout=timeout)
            if tls is None
            else http.client.HTTPSConnection(host, port, timeout=timeout, context=tls)
        )
        try:
            connection.request("GET", target, headers={"Connection": "close"})
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready


def strangers_refused(
    host: str, port: int, tls: ssl.SSLContext, *, timeout: float = 1.0
) -> Callable[[], bool]:
    """A question for ``ChildSpec.ready`` of a server that wants client certificates: does it refuse one without?

    That it does says that it is there; more cannot be asked without a certificate.
    """

    def ready() -> bool:
        try:
            with (
                socket.create_connection((host, port), timeout) as plain,
                tls.wrap_socket(plain, server_hostname=host) as encrypted,
            ):
                # In TLS 1.3 the refusal comes behind the handshake.
                return bool(encrypted.recv(1))
        except ssl.SSLError as error:
            return (error.reason or "").endswith(("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"))
        except OSError:
            return False

    return ready


def redis_ready(url: str | RedisUrl, *, timeout: float = 1.0) -> Callable[[], bool]:
    """A question for ``ChildSpec.ready``: does the server answer PING? Not while it still loads its data.

    Raises:
        RedisUrlError: the URL cannot be used.
    """
    address = RedisUrl.parse(url) if isinstance(url, str) else url

    def ready() -> bool:
        try:
            ping(address, timeout=timeout)
        except RedisUnreachableError:
            return False
        return True

    return ready


def wait_http_ready(url: str, *, timeout: float = 30.0) -> None:
    """Wait until a GET of ``url`` answers 200.

    Raises:
        ReadinessTimeoutError: it does not within ``timeout`` seconds.
    """
    _wait(http_ready(url), url, timeout)


def wait_redis_ready(url: str | RedisUrl, *, timeout: float = 10.0) -> None:
    """Wait until the server answers PING.

    Raises:
        RedisUrlError: the URL cannot be used.
        ReadinessTimeoutError: it does not within ``timeout`` seconds.
    """
    address = RedisUrl.parse(url) if isinstance(url, str) else url
    _wait(redis_ready(address), address.shown, timeout)


def _wait(ready: Callable[[], bool], shown: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() >= end:
            raise ReadinessTimeoutError(f"{shown} was not ready within {timeout:g} s")
        time.sleep(_INTERVAL)
