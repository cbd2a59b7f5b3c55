"""The blocking subscription: what is published while it stands is heard, in order; a loss is never silence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from redis import Redis

from common.domain.errors import StoreUnavailable
from common.store.blocking_subscription import BlockingSubscription, Published, Subscribed
from common.store.client import Client, StoreAddress
from common.store.shared import SharedConnection
from tests.support.tcp_proxy import TcpProxy

ONE, OTHER = "test:one", "test:other"


@pytest.fixture
def subscription(address: StoreAddress, client: Client) -> Iterator[BlockingSubscription]:
    """Both channels stand."""
    subscription = SharedConnection(address).listen(ONE, OTHER)
    assert heard(subscription, 2) == [Subscribed(ONE), Subscribed(OTHER)]
    yield subscription
    subscription.close()


def heard(subscription: BlockingSubscription, count: int) -> list[Published | Subscribed]:
    """The next ones; a fault ends it."""
    found: list[Published | Subscribed] = []
    while len(found) < count:
        found += subscription.read(5) or []
    return found


def test_what_is_published_is_heard_in_order(subscription: BlockingSubscription, client: Client) -> None:
    """With its channel; many at once are one look, or a few."""
    for number in range(100):
        client.publish((ONE, OTHER)[number % 2], f"{number}\r\n")
    assert heard(subscription, 100) == [
        Published((ONE, OTHER)[number % 2], b"%d\r\n" % number) for number in range(100)
    ]


def test_large_messages_come_whole(subscription: BlockingSubscription, client: Client) -> None:
    """However many reads they take."""
    client.publish(ONE, b"x" * 5_000_000)
    assert heard(subscription, 1) == [Published(ONE, b"x" * 5_000_000)]


def test_silence_is_none_and_a_ping_is_a_sign_of_life(subscription: BlockingSubscription) -> None:
    """So that silence can be told from a dead peer."""
    assert subscription.read(0.02) is None
    subscription.ping()
    assert subscription.read(5) == []


def test_a_killed_connection_is_said(subscription: BlockingSubscription, raw: Redis) -> None:
    """At once."""
    raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(StoreUnavailable):
        heard(subscription, 1)


def test_nobody_there_is_said_in_time(proxy: TcpProxy) -> None:
    """Within the time to connect."""
    proxy.refuse()
    begun = time.monotonic()
    connection = SharedConnection(StoreAddress(url=proxy.url, connect_timeout=0.5, socket_timeout=0.5))
    with pytest.raises(StoreUnavailable), closing(connection.listen(ONE)) as subscription:
        heard(subscription, 1)
    assert time.monotonic() - begun < 3


def test_closing_twice_is_closing(subscription: BlockingSubscription) -> None:
    """And afterwards nothing can be read."""
    subscription.close()
    subscription.close()
    with pytest.raises(StoreUnavailable):
        subscription.read(0.1)
