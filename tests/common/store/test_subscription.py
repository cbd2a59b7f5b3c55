"""The worker's subscription: hints come at once; whoever listens is told when it may have missed some."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from common.store import subscription
from common.store.client import Client, StoreAddress
from common.store.subscription import Subscription
from tests.support.aio import ended, on_loop, until
from tests.support.tcp_proxy import TcpProxy


class Heard:
    """What came in."""

    def __init__(self) -> None:
        self.publications: list[tuple[bytes, bytes]] = []
        self.subscribed = 0

    def publication(self, channel: bytes, data: bytes) -> None:
        """One more."""
        self.publications.append((channel, data))

    def again(self) -> None:
        """Subscribed, once more."""
        self.subscribed += 1


@asynccontextmanager
async def listening(address: StoreAddress, *channels: str) -> AsyncIterator[Heard]:
    """A subscription that stands."""
    heard = Heard()
    made = Subscription(address, channels, on_publication=heard.publication, on_subscribed=heard.again)
    task = asyncio.create_task(made.run())
    try:
        await until(lambda: heard.subscribed, description="the subscription")
        yield heard
    finally:
        await ended(task)


@on_loop
async def test_what_is_published_arrives_in_order(client: Client, address: StoreAddress, raw: Redis) -> None:
    """From all channels, whatever the bytes, also the large."""
    async with listening(address, "test:a", "test:b") as heard:
        sent = [(b"test:a", b"%d" % n) for n in range(500)]
        sent += [(b"test:b", b"\r\n\xff\x00"), (b"test:a", b"x" * 3_000_000), (b"test:b", b"")]
        for channel, data in sent:
            raw.publish(channel, data)
        await until(lambda: len(heard.publications) == len(sent), description="all of them")
    assert heard.publications == sent
    assert heard.subscribed == 1


@on_loop
async def test_after_a_loss_it_listens_again_and_says_so(client: Client, proxy: TcpProxy, raw: Redis) -> None:
    """Cut, and away for a while."""
    address = StoreAddress(url=proxy.url, connect_timeout=0.3, socket_timeout=0.3)
    async with listening(address, "test:a") as heard:
        proxy.cut()
        await until(lambda: heard.subscribed == 2, description="the second subscription")
        proxy.refuse()
        proxy.cut()
        await until(lambda: proxy.links == 0, description="the connection to be gone")
        proxy.refuse(False)
        await until(lambda: heard.subscribed == 3, description="the third subscription")
        raw.publish("test:a", "x")
        await until(lambda: heard.publications == [(b"test:a", b"x")], description="the hint")


@on_loop
async def test_silence_is_told_from_death(
    client: Client, proxy: TcpProxy, raw: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet connection is kept as long as it answers; one that answers no more is given up."""
    monkeypatch.setattr(subscription, "QUIET", 0.05)
    address = StoreAddress(url=proxy.url, connect_timeout=0.3, socket_timeout=0.3)
    async with listening(address, "test:a") as heard:
        await asyncio.sleep(10 * subscription.QUIET)
        assert heard.subscribed == 1
        proxy.black_hole()
        await until(lambda: heard.subscribed == 2, description="a new subscription")
        raw.publish("test:a", "x")
        await until(lambda: heard.publications, description="the hint")


@on_loop
async def test_a_refused_greeting_is_tried_again(client: Client, address: StoreAddress, raw: Redis) -> None:
    """A wrong password is nobody's end: it may be mended."""
    raw.config_set("requirepass", "right")
    try:
        url = address.url.replace("unix://", "unix://:wrong@")
        heard = Heard()
        made = Subscription(
            StoreAddress(url=url), ["test:a"], on_publication=heard.publication, on_subscribed=heard.again
        )
        task = asyncio.create_task(made.run())
        await asyncio.sleep(0.2)
        assert heard.subscribed == 0
        assert not task.done()
        raw.config_set("requirepass", "wrong")
        await until(lambda: heard.subscribed == 1, description="the subscription")
        await ended(task)
    finally:
        raw.config_set("requirepass", "")
