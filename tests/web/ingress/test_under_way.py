"""Requests of one client that are under way together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from common.domain.errors import StoreUnavailable
from gateway_web.ingress.outbox import Outbox
from gateway_web.ingress.under_way import UnderWay


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("broken")])
def test_what_breaks_behind_a_cancellation_is_not_told(error: Exception) -> None:
    """The client wants no answer any more, not even that one (2025-11-25, "Cancellation")."""
    outbox, cancelled, ended = Outbox(), threading.Event(), threading.Event()
    under_way = UnderWay(outbox, silence=1, on_end=ended.set)

    def messages() -> Iterator[dict[str, Any] | None]:
        assert cancelled.wait(10)
        raise error
        yield

    under_way.run(1, messages(), lambda: None, cancelled.set)
    under_way.cancel(1)
    assert ended.wait(10)
    assert (outbox.get(0), 1 in under_way) == (None, False)


def test_what_breaks_is_told() -> None:
    """To whoever waits for the answer."""
    outbox, ended = Outbox(), threading.Event()
    under_way = UnderWay(outbox, silence=1, on_end=ended.set)

    def messages() -> Iterator[dict[str, Any] | None]:
        raise StoreUnavailable("away")
        yield

    under_way.run("a b", messages(), lambda: None, lambda: None)
    assert ended.wait(10)
    assert b'"id":"a b"' in (outbox.get(0) or b"")
