"""What waits to be written to one client."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gateway_web.ingress.outbox import Outbox
from tests.support.wait import wait_until


def test_messages_come_in_order() -> None:
    """One at a time; none when there is none."""
    outbox = Outbox()
    assert outbox.put(b"a")
    assert outbox.put(b"b")
    assert [outbox.get(0), outbox.get(0), outbox.get(0)] == [b"a", b"b", None]


def test_whoever_has_a_message_waits_while_it_is_full() -> None:
    """Until there is room for it."""
    outbox = Outbox(bound=4)
    outbox.put(b"abc")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(outbox.put, b"de")
        assert not waiting.done()
        assert outbox.get(0) == b"abc"
        assert waiting.result(10) is True
    assert outbox.get(0) == b"de"


def test_a_message_beyond_the_bound_goes_alone() -> None:
    """A large result is no reason to refuse it."""
    outbox = Outbox(bound=4)
    assert outbox.put(b"abcdefgh")
    assert outbox.get(0) == b"abcdefgh"


def test_whoever_waits_is_let_go_when_it_closes() -> None:
    """For room, for a message, and for the end."""
    outbox = Outbox(bound=1)
    outbox.put(b"a")
    empty = Outbox()
    with ThreadPoolExecutor(3) as pool:
        room, end = pool.submit(outbox.put, b"b"), pool.submit(outbox.wait_closed, 60)
        message = pool.submit(empty.get, 60)
        outbox.close()
        empty.close()
        assert (room.result(10), end.result(10), message.result(10)) == (False, True, None)
    assert outbox.get(0) is None
    assert not outbox.put(b"c")
    wait_until(lambda: outbox.closed, description="closed")
    assert not Outbox().wait_closed(0)
