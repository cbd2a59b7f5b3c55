"""Questions of readiness, to real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from gateway_web.supervisor import (
    ReadinessTimeoutError,
    RedisUnreachableError,
    RedisUrl,
    http_ready,
    redis_ready,
    wait_http_ready,
    wait_redis_ready,
)
from gateway_web.supervisor.ping import ping


@contextmanager
def _http_server(*statuses: int) -> Iterator[str]:
    """A server that answers each request with the next status, the last one for ever."""
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/readyz"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _redis_double(*answers: bytes) -> Iterator[tuple[RedisUrl, list[bytes]]]:
    """A server that gives the next answer to each thing it receives, and what it received; b"" hangs up."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    received.append(connection.recv(4096))
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield RedisUrl(scheme="redis", host="127.0.0.1", port=listener.getsockname()[1]), received
        thread.join()


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_http_is_ready_at_200_only() -> None:
    """503, as ``/readyz`` answers while starting, is not yet; nor is a port where nobody listens."""
    with _http_server(503, 404, 200) as url:
        ready = http_ready(url)
        assert [ready(), ready(), ready()] == [False, False, True]
    assert http_ready(f"http://127.0.0.1:{_closed_port()}/")() is False


def test_a_wait_for_http_ends_when_it_is_ready_or_late() -> None:
    """The error names the URL and the time."""
    with _http_server(503, 503, 200) as url:
        wait_http_ready(url, timeout=10)
    with (
        _http_server(503) as url,
        pytest.raises(ReadinessTimeoutError, match=r"/readyz was not ready within 0\.2 s"),
    ):
        wait_http_ready(url, timeout=0.2)


@pytest.mark.parametrize("url", ["https://127.0.0.1/", "127.0.0.1:80", "http:///readyz"])
def test_only_http_urls_are_taken(url: str) -> None:
    """A wrong URL is a mistake of the caller, not a server that is late."""
    with pytest.raises(ValueError, match="is not an http URL"):
        http_ready(url)


def test_ping_logs_in_and_selects_the_database() -> None:
    """AUTH with the user, SELECT, PING, in RESP."""
    with _redis_double(b"+OK\r\n", b"+OK\r\n", b"+PONG\r\n") as (url, received):
        ping(RedisUrl(scheme="redis", host=url.host, port=url.port, db=7, username="u", password="päss"))
    assert received == [
        "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$5\r\npäss\r\n".encode(),
        b"*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ]


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ((b"-LOADING Redis is loading the dataset in memory\r\n",), "refuses PING: LOADING"),
        ((b"-NOAUTH Authentication required.\r\n",), "NOAUTH.*check user and password in redis.url"),
        ((b"HTTP/1.1 400 Bad Request\r\n",), "refuses PING: HTTP/1.1 400"),
        ((b"",), "no answer in time"),
    ],
    ids=["loading", "password needed", "not redis", "silent"],
)
def test_any_other_answer_is_not_ready(answers: tuple[bytes, ...], problem: str) -> None:
    """The error holds the server's own words."""
    with _redis_double(*answers, b"") as (url, _), pytest.raises(RedisUnreachableError, match=problem):
        ping(url, timeout=0.3)


def test_a_wrong_password_is_told_without_the_password() -> None:
    """Nor is it in the chain of causes."""
    with _redis_double(b"-WRONGPASS invalid username-password pair\r\n") as (url, _):
        secret = RedisUrl(scheme="redis", host=url.host, port=url.port, password="hunter2")
        with pytest.raises(RedisUnreachableError, match="refuses AUTH: WRONGPASS") as caught:
            ping(secret)
    assert "hunter2" not in str(caught.value)


def test_an_unreachable_server_is_named() -> None:
    """Host, port and the system's reason; ``redis_ready`` says no, the wait ends with an error."""
    port = _closed_port()
    url = f"redis://u:hunter2@127.0.0.1:{port}/0"
    with pytest.raises(RedisUnreachableError, match=f"redis://127.0.0.1:{port}/0: .*refused") as caught:
        ping(RedisUrl.parse(url))
    assert "hunter2" not in str(caught.value)
    assert redis_ready(url)() is False
    with pytest.raises(ReadinessTimeoutError, match=f"^redis://127.0.0.1:{port}/0 was not ready"):
        wait_redis_ready(url, timeout=0.1)


def test_a_silent_server_is_given_up_in_time() -> None:
    """A server that accepts and says nothing does not hold up the supervisor."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin = time.monotonic()
        assert redis_ready(f"redis://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2)() is False
        assert time.monotonic() - begin < 2
