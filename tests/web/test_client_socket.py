"""Clients that take nothing, or give too slowly, are cut off; those that are only idle are not."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import gevent
import pytest
from gevent.socket import socket as GeventSocket  # noqa: N812 - it is a class
from gunicorn.config import Config
from gunicorn.glogging import Logger

from common.settings import WebSettings
from gateway_web.client_socket import ClientSocket, bounded
from gateway_web.gunicorn_worker import Worker
from gateway_web.http import HttpAnswer, HttpRequest
from gateway_web.ingress.short_way import ShortWay

BOUND = 0.3
WEB = WebSettings(write_timeout=BOUND, read_timeout=BOUND)
HEAD = b"%b /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
VERBS = (b"POST", b"GET")
"""The short way, and gunicorn's own."""


@dataclass
class Served:
    """A connection to a worker, from the client's side."""

    sock: socket.socket
    closed: threading.Event = field(default_factory=threading.Event)
    """Set when the answer was let go of."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the worker is done with the connection."""

    def ask(self, verb: bytes = b"POST", body: bytes = b"") -> None:
        """Send a whole request."""
        self.sock.sendall(HEAD % (verb, len(body)) + body)

    def read_until(self, wanted: bytes) -> bytes:
        """Read up to some bytes."""
        heard = b""
        while wanted not in heard:
            piece = self.sock.recv(65536)
            assert piece, f"closed after {heard!r}"
            heard += piece
        return heard


Body = Callable[[HttpRequest], bytes | Iterator[bytes]]


@contextmanager
def served(body: Body, web: WebSettings = WEB) -> Iterator[Served]:
    """A worker that serves one connection in a thread, with gevent's sockets as it has in its own process."""
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    found = Served(ours)

    def post(http: HttpRequest, _tool: object) -> HttpAnswer:
        return HttpAnswer(body=body(http), on_close=found.closed.set)

    def flask(environ: dict[str, object], start_response: object) -> object:
        return post(HttpRequest(environ), None).send(start_response)  # type: ignore[arg-type]

    config = Config()
    config.set("keepalive", 75)
    worker = Worker(1, os.getppid(), [], None, 30, config, Logger(config))
    way = ShortWay(flask, guard=lambda _: None, post=post, broken=lambda *_: HttpAnswer(status=500))  # type: ignore[arg-type]
    worker.wsgi, worker._short_way, worker._web = way, way, web

    def serve() -> None:
        sock = GeventSocket(theirs.family, theirs.type, theirs.proto, fileno=theirs.detach())
        try:
            worker.handle(ours, sock, ("127.0.0.1", 4711))
        finally:
            gevent.get_hub().destroy(destroy_loop=True)
            found.ended.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ours.close()
        thread.join(20)
        worker.tmp.close()
        assert not thread.is_alive()


def endless(_http: HttpRequest) -> Iterator[bytes]:
    """More than any buffer takes."""
    while True:
        yield b"x" * 65536


@pytest.mark.parametrize("verb", VERBS)
def test_a_client_that_reads_nothing_is_cut_off(verb: bytes) -> None:
    """In about the time of the setting; its answer is let go of, and the rest of it is not kept."""
    with served(endless) as client:
        begun = time.monotonic()
        client.ask(verb)
        assert client.closed.wait(20)
        assert client.ended.wait(20)
        assert time.monotonic() - begun >= BOUND


@pytest.mark.parametrize("verb", VERBS)
def test_so_is_one_that_reads_none_of_a_whole_answer(verb: bytes) -> None:
    """A body in one piece blocks the same."""
    with served(lambda _: b"x" * (16 << 20)) as client:
        client.ask(verb)
        assert client.ended.wait(20)


def test_a_client_that_reads_slowly_gets_all_of_it() -> None:
    """However long it takes: each piece that it takes gives it the time anew."""
    size = 4 << 20
    with served(lambda _: iter([b"x" * size])) as client:
        begun = time.monotonic()
        client.ask()
        heard, pace = 0, threading.Event()
        while heard < size:
            pace.wait(BOUND / 10)
            heard += len(client.sock.recv(size // 30))
        assert time.monotonic() - begun > 2 * BOUND
        assert not client.ended.is_set()


@pytest.mark.parametrize("verb", VERBS)
def test_a_quiet_stream_is_no_slow_client(verb: bytes) -> None:
    """What bounds a write does not bound the time between two."""
    gate = threading.Event()

    def pieces(_http: HttpRequest) -> Iterator[bytes]:
        yield b"one"
        gate.wait(5 * BOUND)
        yield b"two"

    with served(pieces) as client:
        client.ask(verb)
        client.read_until(b"one")
        client.read_until(b"two")


def test_an_idle_connection_is_kept() -> None:
    """Between two requests it is gunicorn's keep-alive time that counts, not ours."""
    with served(lambda http: http.body(100)) as client:
        for _ in range(2):
            client.ask(body=b"{}")
            client.read_until(b"\r\n\r\n{}")
            assert not client.ended.wait(2 * BOUND)


def drip(client: Served, data: bytes) -> float:
    """Send a byte at a time until the other side has closed or answered; returns how long that took."""
    begun = time.monotonic()
    for at in range(len(data)):
        readable, _, _ = select.select([client.sock], [], [], BOUND / 10)
        if readable:
            break
        try:
            client.sock.sendall(data[at : at + 1])
        except OSError:
            break
    return time.monotonic() - begun


def test_a_head_that_drips_in_is_not_waited_for() -> None:
    """The connection is closed, though a byte comes every now and then."""
    with served(lambda _: b"") as client:
        took = drip(client, HEAD % (b"POST", 0) + b" " * 100)
        assert client.ended.wait(20)
        assert BOUND <= took < 10 * BOUND


def test_a_body_that_drips_in_is_refused() -> None:
    """With an error that a handler sees, and the connection is not used again."""
    seen: list[type[BaseException]] = []

    def body(http: HttpRequest) -> bytes:
        try:
            return http.body(1000)
        except Exception as error:
            seen.append(type(error))
            return b"refused"

    with served(body) as client:
        client.sock.sendall(HEAD % (b"POST", 500))
        drip(client, b"x" * 500)
        client.read_until(b"refused")
        assert client.ended.wait(20)
    assert [kind.__name__ for kind in seen] == ["Refused"]


def test_a_body_that_comes_later_than_its_head_is_bounded_too() -> None:
    """Silence in the middle of a request is no idle connection."""
    with served(lambda http: http.body(1000)) as client:
        client.sock.sendall(HEAD % (b"POST", 500))
        assert client.ended.wait(20)


@pytest.mark.parametrize("verb", VERBS)
def test_so_is_that_of_a_request_whose_head_came_with_the_one_before(verb: bytes) -> None:
    """Nothing is read from the connection before its body."""
    with served(lambda http: http.body(1000)) as client:
        client.sock.sendall(HEAD % (verb, 2) + b"{}" + HEAD % (verb, 500))
        client.read_until(b"\r\n\r\n{}")
        assert client.ended.wait(20)


def test_a_copy_takes_the_bound_of_writing_along_but_not_that_of_reading() -> None:
    """WebSockets are served on a copy, whose client may be silent."""
    ours, theirs = socket.socketpair()
    with ours:
        sock = bounded(GeventSocket(theirs.family, theirs.type, theirs.proto, fileno=theirs.detach()), WEB)
        with sock, sock.dup() as copy:
            assert type(copy) is ClientSocket
            assert (copy.write_timeout, copy.read_timeout) == (BOUND, None)
            ours.sendall(b"a")
            assert copy.recv(1) == b"a"
            threading.Timer(2 * BOUND, ours.sendall, [b"b"]).start()
            assert copy.recv(1) == b"b"


def test_whoever_sets_a_timeout_has_that_one_for_reading() -> None:
    """As WebSockets do after their upgrade: a message may come long after the request that began them."""
    ours, theirs = socket.socketpair()
    with ours:
        sock = bounded(GeventSocket(theirs.family, theirs.type, theirs.proto, fileno=theirs.detach()), WEB)
        with sock:
            ours.sendall(b"a")
            assert sock.recv(1) == b"a"
            sock.settimeout(20)
            threading.Timer(2 * BOUND, ours.sendall, [b"b"]).start()
            assert sock.recv(1) == b"b"


def test_a_connection_that_is_not_gevents_own_stays_as_it_is() -> None:
    """TLS is gunicorn's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert bounded(ours, WEB) is ours
