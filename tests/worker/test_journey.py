"""What is on record of a call on its way: what a rescue reads of it, and how it gets back into its queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from common.audit.journal import Journal
from common.calls.admission import Admitted, CircuitRefuses, Draining, Order, QueueAtBound, QueueBounds
from common.domain.errors import StoreUnavailable
from common.domain.ids import InvocationId
from common.domain.tool_status import OperatorState
from common.registry.records import Entry
from common.store.client import Client, StoreAddress
from common.store.keys import UNSENT_TTL, Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import journey as module
from gateway_worker.delivery import Held, Taken
from gateway_worker.egress.link import LinkLost
from gateway_worker.journey import Journey
from gateway_worker.message import read_message
from gateway_worker.outbox import Outbox
from tests.common.store import delivery
from tests.common.store.delivery import A as NODE
from tests.common.store.delivery import ids, live, waiting
from tests.support.aio import ended, on_loop, until
from tests.support.backends import entry_of, stdio_tool
from tests.support.messages import QUEUE, head, stamped, unstamped
from tests.support.tcp_proxy import TcpProxy

WIDE = QueueBounds(max_length=10, max_age=60)


class Way:
    """A journey, and what it works on."""

    def __init__(self, client: Client, address: StoreAddress, keys: Keys) -> None:
        self.client, self.keys = client, keys
        self.redis = PipelinedConnection(address)
        self.outbox = Outbox(self.redis, keys, result_ttl=60)
        self.journey = Journey(self.redis, keys, self.outbox)
        live(client, keys, NODE)

    def held(self, call: str = "i") -> Held:
        """A call that the node has fetched, of a session that it had before."""
        opener = self.claimed("opener")
        ends = [(opener.tag, opener.head, "r")]
        delivery.finish_all(self.client, self.keys, NODE, ends, cold=True)
        return self.claimed(call, tag=2)

    def claimed(self, call: str = "i", tag: int = 1) -> Held:
        """A call that the node has fetched, together with its session if that was nobody's."""
        delivery.put(self.client, head(call))
        (fetched,) = delivery.fetch(self.client, self.keys, NODE, most=1, tag=tag)[1]
        return self._holding(call, *fetched)

    def _holding(self, call: str, tag: str, _: str, verdict: bytes, token: int) -> Held:
        raw = self.client.hget(self.keys.unacked(NODE), tag) or b""
        taken = Taken(node=NODE, tag=tag, raw=raw, queue=QUEUE, verdict=verdict, token=token)
        envelope = b'{"properties":{},"headers":{"id":"%s","task":"t"}}' % call.encode()
        return Held(taken=taken, head=head(call), message=read_message(envelope, QUEUE))

    def headless(self, tag: str = "7") -> Taken:
        """A stock producer's message as the node has recorded it."""
        self.client.hset(self.keys.unacked(NODE), tag, "{}")
        self.client.expire(self.keys.unacked(NODE), 60)
        return Taken(node=NODE, tag=tag, raw=b"{}", queue=QUEUE, verdict=b"headless", token=0)

    def note(self, held: Held) -> bytes | None:
        """What a rescue would read: 1 if the call was not sent."""
        return self.client.hget(self.keys.unsent(NODE), held.tag)

    def recorded(self, tag: str) -> bool:
        """Whether the node still holds a message."""
        return bool(self.client.hexists(self.keys.unacked(NODE), tag))


@asynccontextmanager
async def way(client: Client, address: StoreAddress, keys: Keys) -> AsyncIterator[Way]:
    """Closed at the end."""
    made = Way(client, address, keys)
    try:
        yield made
    finally:
        await made.redis.aclose()


def through(proxy: TcpProxy) -> StoreAddress:
    """Redis behind the proxy."""
    return StoreAddress(url=proxy.url, socket_timeout=0.3)


@pytest.fixture(autouse=True)
def quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Redis did not take is tried again soon."""
    monkeypatch.setattr(module, "AGAIN", 0.02)


def entry(*, draining: bool = False) -> Entry:
    """The tool, drained or not."""
    made = entry_of(stdio_tool())
    return Entry(registered=made.registered, operator=OperatorState(draining=draining))


# -- whether it was sent --------------------------------------------------------------------------------


@on_loop
async def test_what_is_not_sent_is_on_record_until_it_is(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """A rescue gives it back before, and not afterwards; the note does not outlive its use."""
    async with way(client, address, keys) as w:
        held = w.held()
        await w.journey.unsent(held)
        assert (w.note(held), held.cold, held.sent) == (b"1", True, False)
        assert 0 < client.ttl(keys.unsent(NODE)) <= UNSENT_TTL
        await w.journey.sent(held)
        assert (w.note(held), held.sent) == (b"0", True)


@on_loop
async def test_what_was_claimed_with_its_session_is_noted_already(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """By the script that claimed it; nothing is asked of Redis again, and it is noted when it is sent."""
    async with way(client, address, keys) as w:
        held = w.claimed()
        assert (w.note(held), held.cold) == (b"1", True)
        client.hset(keys.unsent(NODE), "other", 1)
        client.hdel(keys.unsent(NODE), held.tag)
        await w.journey.unsent(held)
        assert w.note(held) is None
        await w.journey.sent(held)
        assert (w.note(held), held.sent) == (b"0", True)


@on_loop
async def test_a_note_that_redis_takes_late_undoes_nothing(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """The call was sent by then: given back, it would run twice."""
    async with way(client, address, keys) as w:
        held = w.held()
        await w.journey.unsent(held)
        await w.journey.sent(held)
        await w.journey.unsent(held)
        assert w.note(held) == b"0"


@on_loop
async def test_without_redis_an_unsent_call_goes_on(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """Degrades: without the note it counts as sent, which loses it at worst."""
    async with way(client, through(proxy), keys) as w:
        held = w.held()
        proxy.refuse()
        await w.journey.unsent(held)
        assert (w.note(held), held.cold) == (None, True)


@on_loop
async def test_nothing_is_sent_before_that_is_on_record(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """However long Redis is away: with the note unchanged a rescue would let it run twice."""
    async with way(client, through(proxy), keys) as w:
        held = w.held()
        await w.journey.unsent(held)
        proxy.refuse()
        proxy.cut()
        sending = asyncio.create_task(w.journey.sent(held))
        done, _ = await asyncio.wait([sending], timeout=0.2)
        assert (done, w.note(held)) == (set(), b"1")
        proxy.refuse(False)
        await asyncio.wait_for(sending, 5)
        assert w.note(held) == b"0"


# -- a delayed call -------------------------------------------------------------------------------------


@on_loop
async def test_a_delayed_call_that_is_due_is_queued(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """Under the same rules as all; at its bound the queue refuses it."""
    async with way(client, address, keys) as w:
        order = Order(queue=QUEUE, message=unstamped(head("due")), bounds=WIDE)
        assert isinstance(await w.journey.admitted(order), Admitted)
        assert ids(waiting(client)) == ["due"]
        full = Order(queue=QUEUE, message=unstamped(), bounds=QueueBounds(max_length=1, max_age=60))
        assert isinstance(await w.journey.admitted(full), QueueAtBound)
        assert ids(waiting(client)) == ["due"]


@on_loop
async def test_without_redis_a_delayed_call_is_not_queued(
    client: Client, proxy: TcpProxy, keys: Keys
) -> None:
    """Fails closed, and Celery is told."""
    async with way(client, through(proxy), keys) as w:
        proxy.refuse()
        with pytest.raises(StoreUnavailable):
            await w.journey.admitted(Order(queue=QUEUE, message=unstamped(), bounds=WIDE))


# -- a message without a head ---------------------------------------------------------------------------


@on_loop
async def test_an_adopted_message_is_the_next_one(client: Client, address: StoreAddress, keys: Keys) -> None:
    """In front of its queue, for it has waited already, and no longer the node's; asked twice, it is there once."""
    async with way(client, address, keys) as w:
        client.lpush(QUEUE, stamped(head("later")))
        taken = w.headless()
        for _ in range(2):
            assert await w.journey.adopted(taken, QUEUE, entry(), unstamped(head("stock"))) is None
        assert ids(waiting(client)) == ["stock", "later"]
        assert not w.recorded(taken.tag)


@on_loop
async def test_a_message_that_may_not_run_stays_to_be_answered(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """Of a tool that is drained, unless its session lives; and of one whose circuit is open."""
    async with way(client, address, keys) as w:
        taken, message = w.headless(), unstamped(head("stock"))
        assert isinstance(await w.journey.adopted(taken, QUEUE, entry(draining=True), message), Draining)
        client.hset(f"{keys.begin}circuit:a", mapping={"state": "open", "generation": 3})
        refused = await w.journey.adopted(taken, QUEUE, entry(), message)
        assert isinstance(refused, CircuitRefuses)
        assert (w.recorded(taken.tag), waiting(client)) == (True, [])
        client.delete(f"{keys.begin}circuit:a")
        assert delivery.reclaim(client, keys, NODE) is not None
        assert await w.journey.adopted(taken, QUEUE, entry(draining=True), message) is None


@on_loop
async def test_adopting_waits_for_redis(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """Nobody else knows of the message; an answer that was lost makes no second one of it."""
    async with way(client, through(proxy), keys) as w:
        taken = w.headless()
        await w.redis.command("PING")
        proxy.swallow_next_reply()
        adopting = w.journey.adopted(taken, QUEUE, entry(), unstamped(head("stock")))
        assert await asyncio.wait_for(adopting, 10) is None
        assert ids(waiting(client)) == ["stock"]


# -- back, and again ------------------------------------------------------------------------------------


@on_loop
async def test_a_call_that_goes_back_holds_nothing_here(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """It is the next one, may be begun by anybody, and counts nowhere; what waits behind it stays there."""
    async with way(client, address, keys) as w:
        held = w.held()
        client.lpush(QUEUE, stamped(head("later")))
        client.set(keys.began(InvocationId("i")), NODE, px=60_000)
        await w.journey.unsent(held)
        for _ in range(2):
            await w.journey.back(held)
        assert ids(waiting(client)) == ["i", "later"]
        assert not w.recorded(held.tag)
        assert w.note(held) is None
        assert client.exists(keys.began(InvocationId("i")), keys.calls(QUEUE)) == 0


@on_loop
async def test_going_back_waits_for_redis(client: Client, proxy: TcpProxy, keys: Keys) -> None:
    """The call has no other way to its answer while its node lives."""
    async with way(client, through(proxy), keys) as w:
        held = w.held()
        proxy.refuse()
        going = asyncio.create_task(w.journey.back(held))
        done, _ = await asyncio.wait([going], timeout=0.2)
        assert (done, w.recorded(held.tag)) == (set(), True)
        proxy.refuse(False)
        await asyncio.wait_for(going, 5)
        assert ids(waiting(client)) == ["i"]


@on_loop
async def test_a_call_that_is_sent_again_is_in_the_journal(
    client: Client, address: StoreAddress, keys: Keys
) -> None:
    """Whose it is, and why."""
    async with way(client, address, keys) as w:
        held = w.held()
        writing = asyncio.create_task(w.outbox.run())
        w.journey.recovered(held, LinkLost("the pipe broke", unsent=True))
        assert await w.outbox.flushed(5)
        await ended(writing)
        (record,) = await until(lambda: Journal(client, keys).newest(10), description="the event")
        assert record.fields == {
            "kind": "session_recovered",
            "actor": NODE,
            "tool": "a",
            "tenant": "t",
            "client": "c",
            "session": "t:c",
            "node": NODE,
            "reason": "the pipe broke",
            "detail": "i",
        }
