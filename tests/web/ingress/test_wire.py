"""A client's socket, as the WebSocket library uses it."""

from __future__ import annotations

import socket

from gateway_web.ingress.wire import Wire


def test_whoever_comes_late_still_hears_of_the_end() -> None:
    """The client may hang up before anybody listens for that."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire, heard = Wire(ours, write_timeout=1), list[str]()
        wire.close()
        wire.on_close(lambda: heard.append("closed"))
        assert heard == ["closed"]


def test_the_end_is_heard_of_when_it_comes() -> None:
    """Not before."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire, heard = Wire(ours, write_timeout=1), list[str]()
        wire.on_close(lambda: heard.append("closed"))
        assert heard == []
        wire.close()
        assert heard == ["closed"]
