"""For Flask's test client: each request goes over a socket and through gunicorn with our worker class."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import gevent
from gunicorn.config import Config
from gunicorn.glogging import Logger

from gateway_web.gunicorn_worker import Worker
from gateway_web.ingress.short_way import ShortWay

PEER = ("127.0.0.1", 4711)


class _Listener:
    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 80)


class _OneConnection(http.client.HTTPConnection):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__("test", timeout=30)
        self.sock = sock


class GunicornWay:
    """A WSGI application that asks another one by way of gunicorn."""

    def __init__(self, way: ShortWay) -> None:
        config = Config()
        self._worker = Worker(1, os.getppid(), [], None, 30, config, Logger(config))
        self._worker.wsgi = way
        self._worker._short_way = way

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        connection = _OneConnection(ours)
        path = quote(environ["PATH_INFO"].encode("latin-1"), safe="/")
        query = environ.get("QUERY_STRING")
        connection.putrequest(
            environ["REQUEST_METHOD"],
            f"{path}?{query}" if query else path,
            skip_host=True,
            skip_accept_encoding=True,
        )
        for name, value in _headers(environ):
            connection.putheader(name, value.encode("latin-1"))
        with suppress(BrokenPipeError):  # refused before all was sent
            connection.endheaders(environ["wsgi.input"].read())
        response = connection.getresponse()
        start_response(f"{response.status} {response.reason}", response.getheaders())
        return _pieces(response, connection)

    def close(self) -> None:
        """Let go of what the worker has opened."""
        self._worker.tmp.close()

    def _serve(self, sock: socket.socket) -> None:
        try:
            self._worker.handle(_Listener(), sock, PEER)
        finally:
            gevent.get_hub().destroy(destroy_loop=True)  # gunicorn's timeout has made one for this thread


def _headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key.removeprefix("HTTP_").replace("_", "-"), str(value)
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(key):
            yield key.replace("_", "-"), str(environ[key])


def _pieces(response: http.client.HTTPResponse, connection: http.client.HTTPConnection) -> Iterator[bytes]:
    try:
        while piece := response.read1(65536):
            yield piece
    finally:
        response.close()
        connection.close()
