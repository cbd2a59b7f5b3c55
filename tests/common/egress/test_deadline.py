"""A deadline and the connections that it shuts down."""

from __future__ import annotations

import socket
import threading

import pytest

from common.egress import deadline
from common.egress.deadline import Deadline


def test_what_is_shut_down_is_not_closed_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number would be another connection's by then."""
    firing, go, numbers = threading.Event(), threading.Event(), list[int]()

    def shut(sock: socket.socket) -> None:
        firing.set()
        assert go.wait(10)
        numbers.append(sock.fileno())

    monkeypatch.setattr(deadline, "_shut", shut)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bound = Deadline(0.01)
        bound.__enter__()
        bound.watch(ours)
        assert firing.wait(10)
        leaving = threading.Thread(target=bound.__exit__, args=(None, None, None))
        leaving.start()
        leaving.join(0.2)
        assert leaving.is_alive()
        go.set()
        leaving.join(10)
        assert numbers
        assert numbers[0] >= 0


def test_what_is_left_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that is late finds nothing."""
    shut = list[socket.socket]()
    monkeypatch.setattr(deadline, "_shut", shut.append)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with Deadline(60) as bound:
            bound.watch(ours)
        bound._end()
    assert shut == []
