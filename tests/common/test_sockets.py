"""Writing to a socket: nothing is lost, however little the kernel takes."""

from __future__ import annotations

import socket
import threading

from common.sockets import send_whole


def test_all_of_it_arrives_where_the_kernel_takes_a_part() -> None:
    """Megabytes into a buffer of kilobytes, while the other side reads."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(10)  # a socket with a timeout takes what it has room for, and no more
    data = bytes(range(256)) * 16_000
    heard = bytearray()

    def read() -> None:
        while piece := theirs.recv(1 << 20):
            heard.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        send_whole(ours, data)
    finally:
        ours.close()
        reader.join(10)
        theirs.close()
    assert bytes(heard) == data


def test_what_fits_is_sent_once() -> None:
    """No second call for the rest of nothing."""

    class Socket:
        calls = 0

        def send(self, data: bytes, /) -> int:
            self.calls += 1
            return len(data)

        def sendall(self, data: bytes, /) -> None:
            raise AssertionError(data)

    sock = Socket()
    send_whole(sock, b"whole")
    assert sock.calls == 1
