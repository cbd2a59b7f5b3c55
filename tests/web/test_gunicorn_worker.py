"""The lane inside gunicorn's worker: what takes it, how answers are written. The doors' tests run through it too."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http.errors import ConfigurationProblem
from gunicorn.http.parser import RequestParser

from gateway_web.gunicorn_worker import Worker, environ_of, settle, write
from gateway_web.http import HttpAnswer
from gateway_web.ingress.short_way import ShortWay

PEER = ("10.0.0.1", 4711)
PLAIN = "POST /servers/a%20b/mcp?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"


def parsed(raw: str, peer: Any = PEER) -> dict[str, Any] | None:
    """The environment for a request as gunicorn reads it."""
    request = next(RequestParser(Config(), iter([raw.encode("latin-1")]), peer))
    request.proxy_protocol_info = {}
    return environ_of(request, "the socket", peer)


def test_a_plain_post_takes_it() -> None:
    """With the path decoded, as WSGI has it, and the body at hand."""
    environ = parsed(PLAIN + "Content-Type: application/json\r\nX-Y: 1\r\nX-Y: 2\r\n\r\n{}")
    assert environ is not None
    body = environ.pop("wsgi.input")
    assert body.read() == b"{}"
    assert environ == {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/servers/a b/mcp",
        "QUERY_STRING": "x=1",
        "REMOTE_ADDR": "10.0.0.1",
        "wsgi.input_terminated": True,
        "gunicorn.socket": "the socket",
        "CONTENT_LENGTH": "2",
        "CONTENT_TYPE": "application/json",
        "HTTP_HOST": "h",
        "HTTP_X_Y": "1,2",
    }


@pytest.mark.parametrize(
    ("raw", "peer"),
    [
        (PLAIN.replace("POST", "GET") + "\r\n{}", PEER),
        (PLAIN.replace("HTTP/1.1", "HTTP/1.0") + "\r\n{}", PEER),
        (PLAIN + "Connection: close\r\n\r\n{}", PEER),
        (PLAIN + "Expect: 100-continue\r\n\r\n{}", PEER),
        (PLAIN + "Script_Name: /servers\r\n\r\n{}", ("127.0.0.1", 1)),
        (PLAIN + "\r\n{}", b"a Unix socket"),
    ],
)
def test_what_needs_more_takes_gunicorns_way(raw: str, peer: Any) -> None:
    """Other methods, connections that end, what a trusted proxy says of the path."""
    assert parsed(raw, peer) is None


def test_a_header_with_an_underscore_is_no_header() -> None:
    """gunicorn drops it, here as elsewhere: ``X_Y`` and ``X-Y`` would be one to WSGI."""
    environ = parsed(PLAIN + "X_Y: 1\r\n\r\n{}")
    assert environ is not None
    assert "HTTP_X_Y" not in environ


def test_settled_settings_are_what_they_were_and_are_looked_up_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each one is the same as before; none of gunicorn's look-ups is left on the way of a request."""
    cfg = Config()
    cfg.set("limit_request_fields", 7)
    before = {name: getattr(cfg, name) for name in cfg.settings}
    settle(cfg)
    assert {name: getattr(cfg, name) for name in cfg.settings} == before
    monkeypatch.setattr(Config, "__getattr__", lambda self, name: pytest.fail(f"{name} was looked up"))
    request = next(RequestParser(cfg, iter([(PLAIN + "\r\n{}").encode()]), PEER))
    assert request.limit_request_fields == 7


class Wire:
    """Takes what is sent; breaks after ``bearing`` writes."""

    def __init__(self, bearing: int = 100) -> None:
        self.writes: list[bytes] = []
        self._bearing = bearing

    def send(self, data: bytes, /) -> int:
        self.sendall(data)
        return len(data)

    def sendall(self, data: bytes, /) -> None:
        if len(self.writes) == self._bearing:
            raise BrokenPipeError
        self.writes.append(data)


def test_a_whole_answer_is_one_write() -> None:
    """Head and body in one packet, with length and date."""
    wire = Wire()
    write(HttpAnswer(status=499, body=b"{}", headers={"Content-Type": "application/json"}), wire)
    (written,) = wire.writes
    head, _, body = written.partition(b"\r\n\r\n")
    status, date, *rest = head.split(b"\r\n")
    assert (status, body) == (b"HTTP/1.1 499 Unknown", b"{}")
    assert date.startswith(b"Date: ")
    assert date.endswith(b" GMT")
    assert rest == [b"Content-Type: application/json", b"Content-Length: 2"]


def test_a_stream_is_written_as_it_comes() -> None:
    """In chunks, an empty piece left out since it would end the body; then it is let go."""
    closed: list[str] = []
    wire = Wire()
    write(HttpAnswer(body=iter([b"one", b"", b"x" * 20]), on_close=lambda: closed.append("closed")), wire)
    head, *chunks = wire.writes
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    assert b"Content-Length" not in head
    assert chunks == [b"3\r\none\r\n", b"14\r\n" + b"x" * 20 + b"\r\n", b"0\r\n\r\n"]
    assert closed == ["closed"]


@pytest.mark.parametrize("bearing", [0, 1, 2])
def test_a_client_that_goes_lets_the_call_go(bearing: int) -> None:
    """Whenever it goes; what made the pieces is closed, and so is the call."""
    closed: list[str] = []

    def pieces() -> Iterator[bytes]:
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append("pieces")

    body = pieces()
    with pytest.raises(BrokenPipeError):
        write(HttpAnswer(body=body, on_close=lambda: closed.append("call")), Wire(bearing))
    assert closed == (["pieces", "call"] if bearing else ["call"])


def test_a_stream_that_breaks_ends_the_connection() -> None:
    """Without its last chunk, so that nobody takes it for whole."""

    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise ValueError("broken")

    wire = Wire()
    with pytest.raises(StopIteration):
        write(HttpAnswer(body=pieces()), wire)
    assert wire.writes[-1] == b"3\r\none\r\n"


def test_no_header_can_end_the_head() -> None:
    """Whatever it holds came from somewhere else."""
    wire = Wire()
    with pytest.raises(ValueError, match="X-Y"):
        write(HttpAnswer(headers={"X-Y": "1\r\nSet-Cookie: x"}), wire)
    assert wire.writes == []


class App:
    """What gunicorn loads."""

    def __init__(self, way: ShortWay) -> None:
        self.wsgi_app = way


def lane_of(**options: Any) -> ShortWay | None:
    """The lane of a worker that was started with these options."""
    config = Config()
    for name, value in options.items():
        config.set(name, value)
    way = ShortWay(
        lambda *_: [], guard=lambda _: None, post=lambda *_: HttpAnswer(), broken=lambda *_: HttpAnswer()
    )
    worker = Worker(1, os.getppid(), [], SimpleNamespace(wsgi=lambda: App(way)), 30, config, Logger(config))
    try:
        worker.load_wsgi()
        return worker._short_way
    finally:
        worker.tmp.close()


def test_the_lane_is_there_as_the_gateway_starts_gunicorn() -> None:
    """With the options of ``canalgate up``, which are gunicorn's defaults."""
    assert lane_of(keepalive=75, worker_connections=4000) is not None


@pytest.mark.parametrize(
    "options",
    [
        {"accesslog": "-"},
        {"max_requests": 1000},
        {"keepalive": 0},
        {"pre_request": lambda _worker, _request: None},
        {"post_request": lambda _worker, _request, _environ, _response: None},
    ],
)
def test_whoever_watches_requests_sees_all_of_them(options: dict[str, Any]) -> None:
    """Access logs, hooks and counts are gunicorn's, and so is then the way of each request."""
    assert lane_of(**options) is None


def test_an_application_under_a_path_takes_gunicorns_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn takes the prefix off the path."""
    monkeypatch.setenv("SCRIPT_NAME", "/prefix")
    assert lane_of() is None


def test_a_path_that_is_not_below_the_named_one_is_the_clients_fault(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Found by fuzzing: with ``SCRIPT_NAME: /servers``, which any local client may send, ``/mcp`` gave 500."""
    config = Config()
    worker = Worker(1, os.getppid(), [], None, 30, config, Logger(config))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker.handle_error(
            None, theirs, PEER, ConfigurationProblem("Request path /mcp does not start with /servers")
        )
        assert ours.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    worker.tmp.close()
    assert "Traceback" not in capfd.readouterr().err


def test_whoever_has_connected_is_served_though_the_listener_closes() -> None:
    """Nobody had accepted them yet. A second closing is no error."""
    program = """
    import socket
    from gevent import socket as cooperative
    from gevent.pool import Pool
    from gateway_web.gunicorn_worker import Listener

    def serve(client, address):
        client.sendall(b"served")
        client.close()

    pool, bound = Pool(100), cooperative.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(100)
    server = Listener(bound, serve, spawn=pool)
    server.start()
    clients = [socket.create_connection(bound.getsockname()) for _ in range(20)]
    server.close()
    pool.join()
    assert [client.recv(10) for client in clients] == [b"served"] * 20
    server.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def test_a_worker_that_ends_answers_whoever_has_connected() -> None:
    """Their requests are read when the listener is closed already, and has no name any more."""
    program = """
    import os, socket
    from gevent import socket as cooperative
    from gunicorn.config import Config
    from gunicorn.glogging import Logger
    from gateway_web.gunicorn_worker import Listener, Worker

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "6")])
        return [b"served"]

    bound, clients, close = cooperative.socket(), [], Listener.close
    bound.bind(("127.0.0.1", 0))
    bound.listen(100)
    address = bound.getsockname()

    def close_behind_them(listener):
        if not clients:
            clients.extend(socket.create_connection(address) for _ in range(5))
            for client in clients:
                client.sendall(b"GET / HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        close(listener)

    Listener.close = close_behind_them
    config = Config()
    worker = Worker(1, os.getppid(), [], None, 30, config, Logger(config))
    worker.sockets, worker.wsgi, worker.alive = [bound], application, False
    worker.run()
    assert all(client.recv(1000).endswith(b"served") for client in clients)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def test_a_listener_that_closes_takes_no_more_than_it_may_serve() -> None:
    """The end must not wait for those that are served, nor take more than ``web.connections`` of them."""
    program = """
    import gevent, socket
    from gevent import socket as cooperative
    from gevent.event import Event
    from gevent.pool import Pool
    from gateway_web.gunicorn_worker import Listener

    served, done = [], Event()

    def serve(client, address):
        served.append(client)
        done.wait()
        client.close()

    pool, bound = Pool(2), cooperative.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(100)
    server = Listener(bound, serve, spawn=pool)
    server.start()
    clients = [socket.create_connection(bound.getsockname()) for _ in range(5)]
    with gevent.Timeout(10):
        server.close()
    gevent.sleep(0)
    assert len(served) == 2, served
    done.set()
    pool.join()
    assert len(served) == 2, served
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
