"""The balancer: in turn, whole, and no connection outlives its end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.balancer import Balancer


@contextlib.contextmanager
def naming(name: bytes) -> Iterator[int]:
    """A server that says its name and then all that it hears, to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError):
                sock.sendall(name)
                while piece := sock.recv(65536):
                    sock.sendall(piece)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def balancer() -> Iterator[Balancer]:
    """Before two servers."""
    with naming(b"a") as first, naming(b"b") as second, Balancer([first, second]) as found:
        yield found


def connected(balancer: Balancer) -> socket.socket:
    """A new connection."""
    return socket.create_connection(("127.0.0.1", balancer.port), timeout=10)


def test_connections_go_to_each_in_turn(balancer: Balancer) -> None:
    """Also while earlier ones stand."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(balancer)) for _ in range(6)]
        assert sorted(sock.recv(1) for sock in socks) == [b"a"] * 3 + [b"b"] * 3
    assert sorted(balancer.taken.values()) == [3, 3]


def test_all_of_it_arrives_both_ways(balancer: Balancer) -> None:
    """Up to the end that the client says, and after it what the server still has."""
    data = bytes(range(256)) * 20_000
    with connected(balancer) as sock:

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        heard = bytearray()
        while piece := sock.recv(65536):
            heard += piece
        sender.join()
    assert bytes(heard[1:]) == data


def test_a_request_may_be_the_last_of_its_connection() -> None:
    """It is told so behind its first line; the rest is as it was sent."""
    with naming(b"") as port, Balancer([port], one_request=True) as balancer, connected(balancer) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        wanted = b"GET / HTTP/1.1\r\nConnection: close\r\nHost: h\r\n\r\n"
        heard = b""
        while len(heard) < len(wanted):
            heard += sock.recv(100)
        assert heard == wanted


def test_a_server_that_is_away_is_told_by_closing(balancer: Balancer) -> None:
    """As a refused connection is."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = int(nobody.getsockname()[1])
    with Balancer([port]) as alone, connected(alone) as sock:
        assert sock.recv(1) == b""


def test_its_end_closes_what_stands() -> None:
    """Nothing waits for a client that stays."""
    with naming(b"a") as port:
        with Balancer([port]) as balancer:
            sock = connected(balancer)
            assert sock.recv(1) == b"a"
        with sock:
            assert sock.recv(1) == b""
