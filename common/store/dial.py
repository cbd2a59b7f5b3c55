"""A blocking socket to Redis, ready for commands: for connections of our own under threads and greenlets."""

from __future__ import annotations

import socket

import hiredis

from common.domain.errors import StoreUnavailable
from common.store.endpoint import Endpoint
from common.store.pipelined import CommandRefused
from common.store.tls_socket import TlsSocket
from common.tls import KeptContext

READ_SIZE = 65536
StoreSocket = socket.socket | TlsSocket


def connected(endpoint: Endpoint, timeout: float) -> StoreSocket:
    """Connect, authenticate and choose the database, each within ``timeout`` seconds.

    Raises :class:`StoreUnavailable`.
    """
    try:
        sock = _dial(endpoint, timeout)
        try:
            _greet(sock, endpoint)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise StoreUnavailable("Redis cannot be reached") from error
    return sock


def _dial(place: Endpoint, timeout: float) -> StoreSocket:
    if place.path is None:
        sock = socket.create_connection((place.host, place.port), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock if place.tls is None else _shaken(sock, place.tls, place.host)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(place.path)
    except BaseException:
        sock.close()
        raise
    return sock


def _shaken(sock: socket.socket, tls: KeptContext, host: str) -> TlsSocket:
    """Behind the handshake, which keeps to the timeout of each of its steps."""
    try:
        return TlsSocket(tls.now().wrap_socket(sock, server_hostname=host))
    except BaseException:
        sock.close()
        raise


def _greet(sock: StoreSocket, endpoint: Endpoint) -> None:
    if not endpoint.greeting:
        return
    # What is no RESP at all (a TLS alert, a proxy's page) breaks the connection, as anywhere else.
    reader = hiredis.Reader(protocolError=ConnectionError, replyError=CommandRefused)
    sock.sendall(endpoint.opening())
    for _ in endpoint.greeting:
        while (reply := reader.gets()) is False:
            data = sock.recv(READ_SIZE)
            if not data:
                raise ConnectionError("closed")
            reader.feed(data)
        if isinstance(reply, CommandRefused):
            raise StoreUnavailable("Redis refuses this connection") from reply
