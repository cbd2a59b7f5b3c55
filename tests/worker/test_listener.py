"""The listener: hints from other processes, of which none can end it."""

from __future__ import annotations

import asyncio

from redis import Redis

from common.store.client import Client, StoreAddress
from gateway_worker.listener import Listener
from tests.support.aio import ended, on_loop, until
from tests.support.tcp_proxy import TcpProxy


def fails(_: bytes) -> None:
    """A hearer that cannot read what it was sent."""
    raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")


@on_loop
async def test_it_hears_after_everything(client: Client, proxy: TcpProxy, raw: Redis) -> None:
    """Each channel by its own hearer; after a message that nobody can read, and after a lost connection."""
    heard: list[tuple[str, bytes]] = []
    address = StoreAddress(url=proxy.url, socket_timeout=0.5)
    hearers = {name: (lambda data, name=name: heard.append((name, data))) for name in ("a", "b")}
    task = asyncio.create_task(Listener(address, {**hearers, "bad": fails}).run())

    async def arrives(channel: str, data: bytes) -> None:
        def sent() -> bool:
            raw.publish(channel, data)
            return (channel, data) in heard

        await until(sent, description=f"{data!r} to be heard")

    await arrives("a", b"1")
    await arrives("b", b"2")
    raw.publish("bad", b"\xff")
    await arrives("a", b"3")
    proxy.cut()
    await arrives("b", b"4")
    proxy.refuse()
    proxy.cut()
    await until(lambda: proxy.links == 0, description="the connection to be gone")
    proxy.refuse(False)
    await arrives("a", b"5")
    await ended(task)
