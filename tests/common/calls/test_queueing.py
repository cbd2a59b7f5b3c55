"""Calls that may be queued in vain are taken back, however many there are, and nobody waits for that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from common.calls.queueing import TOLD_AT_ONCE, Queueing, SessionRecords
from common.domain.errors import StoreUnavailable
from common.domain.ids import InvocationId
from common.settings import Settings
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.shared import SharedConnection
from common.tenants.rates import FullBuckets
from common.tenants.view import Tenants
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until


@pytest.fixture
def queueing(proxy: TcpProxy, client: Client, keys: Keys) -> Iterator[Queueing]:
    """One whose way to Redis can be cut."""
    connection = SharedConnection(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1))
    clock = RedisClock()
    seconds, micros = client.time()
    clock.correct(seconds * 1000 + micros // 1000)
    tenants = Tenants(client, keys, Settings())
    yield Queueing(
        connection, keys, Settings(), clock, cast("SessionRecords", None), tenants, FullBuckets(), reply="r"
    )
    connection.close()


class Worker:
    """Hears what is taken back."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._heard = client.pubsub(ignore_subscribe_messages=True)
        self._heard.subscribe(keys.cancel_channel)
        self._heard.get_message(timeout=5)

    def heard(self) -> list[str]:
        """All that was said since the last time."""
        found = []
        while (message := self._heard.get_message(timeout=0.2)) is not None:
            found.append(message["data"].decode())
        return found


def test_many_are_told_of_in_steps_and_each_again_and_again(
    queueing: Queueing, client: Client, keys: Keys
) -> None:
    """None is forgotten before its deadline, and no step is larger than the bound."""
    names = [f"call{n}" for n in range(TOLD_AT_ONCE + 5)]
    far = queueing._clock.now() + 60_000
    queueing._doubtful.extend((InvocationId(name), far) for name in names)
    worker = Worker(client, keys)
    told = []
    for _ in range(3):
        queueing.take_back()
        told.append(worker.heard())
    assert [len(step) for step in told] == [TOLD_AT_ONCE] * 3
    assert [*told[0], *told[1][:5]] == names
    assert told[1][5:] == names[: TOLD_AT_ONCE - 5]


def test_one_whose_deadline_is_over_is_told_of_once_more_and_forgotten(
    queueing: Queueing, client: Client, keys: Keys
) -> None:
    """No worker begins it from then on."""
    queueing._doubtful.append((InvocationId("late"), queueing._clock.now() - 1))
    worker = Worker(client, keys)
    queueing.take_back()
    queueing.take_back()
    assert worker.heard() == ["late"]


def test_nothing_is_forgotten_while_redis_is_away(
    queueing: Queueing, client: Client, keys: Keys, proxy: TcpProxy
) -> None:
    """It is told when it is back."""
    far = queueing._clock.now() + 60_000
    queueing._doubtful.extend((InvocationId(name), far) for name in ("a", "b"))
    proxy.refuse()
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        queueing.take_back()
    proxy.refuse(False)
    worker = Worker(client, keys)

    def told() -> bool:
        try:
            queueing.take_back()
        except StoreUnavailable:
            return False
        return True

    wait_until(told, description="Redis to be back")
    assert worker.heard() == ["a", "b"]
