"""Handing messages to Celery's own path: a broken connection delays them, a message that breaks kombu harms none."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kombu import Connection

from gateway_worker.celery_host import CeleryHost


class FakeConsumer:
    """As much of Celery's consumer as is needed; ``fault`` is raised by the next delivery."""

    def __init__(self) -> None:
        self.connection_errors = Connection("redis://").connection_errors
        self.fault: Exception | None = None
        self.delivered: list[str] = []
        self.rejected: list[str] = []
        self.later: list[Callable[[], None]] = []
        transport = SimpleNamespace(_deliver=self._deliver)
        self.connection = SimpleNamespace(transport=transport)
        channel = SimpleNamespace(qos=SimpleNamespace(ack=self.rejected.append))
        self.task_consumer = SimpleNamespace(channel=channel)
        self.timer = SimpleNamespace(call_after=lambda _, call, args: self.later.append(lambda: call(*args)))

    def _deliver(self, envelope: dict[str, Any], _queue: str) -> None:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        self.delivered.append(envelope["properties"]["delivery_tag"])


def host_of(consumer: FakeConsumer) -> CeleryHost:
    """A host whose Celery loop is this thread."""
    host = CeleryHost()
    host._consumer = consumer
    host._hub = SimpleNamespace(call_soon=lambda call: call())
    return host


def hand_over(host: CeleryHost, tag: str, ends: list[str]) -> None:
    """Deliver a message; ``ends`` collects what became of it."""
    envelope = {"properties": {"delivery_tag": tag}}
    host.deliver(
        envelope, "tool.a", lambda: ends.append(f"{tag} taken"), lambda: ends.append(f"{tag} refused")
    )


def test_a_message_that_breaks_kombu_is_refused_and_forgotten_by_it() -> None:
    """Also with KeyError, which kombu counts among the errors of connections; the next one is delivered."""
    for fault in (KeyError("exchange"), ValueError("x"), AttributeError("x")):
        consumer, ends = FakeConsumer(), list[str]()
        consumer.fault = fault
        host = host_of(consumer)
        hand_over(host, "bad", ends)
        hand_over(host, "good", ends)
        assert ends == ["bad refused", "good taken"]
        assert consumer.rejected == ["bad"]


def test_a_broken_connection_delays_and_keeps_the_order() -> None:
    """Nothing is refused for it, and it is tried again by itself."""
    consumer, ends = FakeConsumer(), list[str]()
    consumer.fault = ConnectionResetError()
    host = host_of(consumer)
    hand_over(host, "first", ends)
    assert ends == []
    (again,) = consumer.later
    again()
    hand_over(host, "second", ends)
    assert ends == ["first taken", "second taken"]
    assert consumer.delivered == ["first", "second"]
