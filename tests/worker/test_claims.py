"""Claims: which sessions the node owns, by what Redis says, and that none is used while it is being freed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from redis import Redis

from common.domain.errors import SessionLimit, StoreUnavailable
from common.domain.ids import NodeId, ToolId, queue_of
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from common.store.scripts import script
from gateway_worker import claims
from gateway_worker.claims import Caps, Claim, Claims, NotOwner
from gateway_worker.node import Node
from tests.common.store import delivery
from tests.support.aio import on_loop, until
from tests.support.messages import QUEUE, head
from tests.support.tcp_proxy import TcpProxy

TOOL, SESSION = ToolId("a"), "t:c"
OTHER = NodeId("other:1")


@pytest.fixture(autouse=True)
def quick_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release that Redis did not take is tried again soon."""
    monkeypatch.setattr(claims, "RELEASE_AGAIN", 0.02)


@dataclass(slots=True)
class Owner:
    """A living node with its claims, and what Redis knows of them."""

    node: Node
    claims: Claims
    client: Client
    keys: Keys

    def fetched(self, *calls: str, session: str = SESSION) -> int:
        """Let the node fetch calls of a session; returns the fencing token of the last."""
        delivery.put(self.client, *(head(call, session=session) for call in calls))
        taken: list[delivery.Taken] = []
        for name in (False, True):
            tag = 1 + int(self.client.hlen(self.keys.unacked(self.node.id)))
            _, found, _ = delivery.fetch(self.client, self.keys, self.node.id, direct=name, tag=tag)
            taken += found
        assert len(taken) == len(calls)
        return taken[-1][3]

    def claimed(self, session: str = SESSION) -> Claim:
        """A claim under the token of a fetch."""
        found = self.claims.find(TOOL, session, self.fetched(f"call of {session}", session=session))
        assert found is not None
        return found

    def used_and_left(self, claim: Claim) -> None:
        """A local session lived under it, and was the last."""
        self.claims.enter(claim)
        self.claims.leave(claim)

    def owner(self, session: str = SESSION) -> tuple[str, int] | None:
        """Node and token by Redis' record; None if nobody owns it."""
        record = self.client.hget(self.keys.sessions(TOOL), session)
        if record is None:
            return None
        node, token, _ = record.decode().rsplit(" ", 2)
        return node, int(token)

    def forget(self) -> None:
        """Redis loses everything; the node beats again."""
        self.client.flushdb()
        delivery.live(self.client, self.keys, self.node.id)


@asynccontextmanager
async def owning(address: StoreAddress, client: Client, keys: Keys) -> AsyncIterator[Owner]:
    """One that lives; all its releases have ended at the end."""
    redis, node = PipelinedConnection(address), Node("n")
    delivery.live(client, keys, node.id)
    made = Owner(node, Claims(node, redis, keys), client, keys)
    try:
        yield made
        assert await made.claims.released(10)
    finally:
        await redis.aclose()


def through(proxy: TcpProxy) -> StoreAddress:
    """Redis behind the proxy."""
    return StoreAddress(url=proxy.url, socket_timeout=0.3)


class TestFind:
    """What a fetch said is enough for a claim, unless it may be outdated."""

    @on_loop
    async def test_calls_of_one_session_have_one_claim(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """Under the token that Redis gave; an older one of the same node does not take it away."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            assert one.owner() == (one.node.id, claim.token)
            assert one.claims.find(TOOL, SESSION, claim.token) is claim
            assert one.claims.find(TOOL, SESSION, claim.token - 1) is claim
            assert list(one.claims) == [claim]

    @on_loop
    async def test_what_was_claimed_anew_ends_the_last_claim(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """A greater token: the node lost the session meanwhile, so nothing is sent under the old claim."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            newer = one.claims.find(TOOL, SESSION, claim.token + 1)
            assert newer is not None
            assert (claim.lost, newer.lost) == (True, False)
            assert list(one.claims) == [newer]

    @on_loop
    async def test_without_a_token_redis_has_to_be_asked(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """The answer of the fetch was lost: whose the session is by now is unknown."""
        async with owning(address, client, keys) as one:
            one.claimed()
            assert one.claims.find(TOOL, SESSION, None) is None
            assert one.claims.find(TOOL, "t:d", None) is None

    @on_loop
    async def test_each_tool_s_sessions_are_its_own(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """The same caller's session with another tool is another one."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            assert one.claims.owns_any_of(TOOL)
            assert not one.claims.owns_any_of(ToolId("b"))
            other = one.claims.find(ToolId("b"), SESSION, claim.token)
            assert other is not None
            assert other is not claim


class TestConfirm:
    """Redis decides."""

    @on_loop
    async def test_a_free_session_is_claimed(self, client: Client, address: StoreAddress, keys: Keys) -> None:
        """And it is in Redis under the claim's token."""
        async with owning(address, client, keys) as one:
            claim = await one.claims.confirm(TOOL, SESSION)
            assert one.owner() == (one.node.id, claim.token)
            assert list(one.claims) == [claim]

    @on_loop
    async def test_what_the_node_owns_stays_as_it_is(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """The same claim and the same token: calls under way keep their session."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            assert await one.claims.confirm(TOOL, SESSION) is claim
            assert (claim.lost, one.owner()) == (False, (one.node.id, claim.token))

    @on_loop
    async def test_a_living_other_s_is_not_taken(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """Also if his lease merely ran out: he may renew it and go on. Declared dead, he has nothing any more."""
        async with owning(address, client, keys) as one:
            delivery.live(client, keys, OTHER)
            token = delivery.reclaim(client, keys, OTHER)
            with pytest.raises(NotOwner):
                await one.claims.confirm(TOOL, SESSION)
            client.zadd(keys.nodes, {OTHER: 1})
            with pytest.raises(NotOwner):
                await one.claims.confirm(TOOL, SESSION)
            assert list(one.claims) == []
            delivery.die(client, keys, OTHER)
            claim = await one.claims.confirm(TOOL, SESSION)
            assert token is not None
            assert claim.token > token
            assert one.owner() == (one.node.id, claim.token)

    @on_loop
    async def test_a_node_that_was_declared_dead_gets_nothing(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """It has not heard of it yet."""
        async with owning(address, client, keys) as one:
            delivery.die(client, keys, one.node.id)
            with pytest.raises(NotOwner):
                await one.claims.confirm(TOOL, SESSION)
            assert one.owner() is None


class TestWhoAsksAndWhoWaits:
    """Redis' answer is believed once, whoever still waits for it."""

    @on_loop
    async def test_all_who_ask_at_once_agree(self, client: Client, address: StoreAddress, keys: Keys) -> None:
        """One question, one claim; one of them who gives up takes it from nobody."""
        async with owning(address, client, keys) as one:
            asking = [asyncio.create_task(one.claims.confirm(TOOL, SESSION)) for _ in range(4)]
            await asyncio.sleep(0)
            asking.pop(0).cancel()
            found = await asyncio.gather(*asking)
            assert {id(claim) for claim in found} == {id(found[0])}
            assert list(one.claims) == [found[0]]
            assert one.owner() == (one.node.id, found[0].token)
            assert found[0].releasing is None

    @pytest.mark.parametrize("answered", [False, True])
    def test_what_nobody_waits_for_any_more_is_freed(
        self, answered: bool, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """The caller cancelled, before the answer or in the moment in which it came: the node does not keep it."""

        @on_loop
        async def scenario() -> None:
            async with owning(through(proxy), client, keys) as one:
                await one.claims.confirm(TOOL, "t:warm")
                asking = asyncio.create_task(one.claims.confirm(TOOL, SESSION))
                await asyncio.sleep(0)
                if answered:
                    question = one.claims._asking[TOOL, SESSION].task
                    await asyncio.sleep(0)
                    question.add_done_callback(lambda _: asking.cancel())
                else:
                    proxy.delay = 0.1
                    asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
                assert await one.claims.released(5)
                assert one.owner() is None
                assert [claim.session for claim in one.claims] == ["t:warm"]

        scenario()

    @on_loop
    async def test_it_asks_until_redis_answers(self, client: Client, proxy: TcpProxy, keys: Keys) -> None:
        """A broken connection says nothing about the session: whoever wants it waits for one that stands."""
        async with owning(through(proxy), client, keys) as one:
            await one.claims.confirm(TOOL, "t:warm")
            proxy.cut_at(script("session_reclaim").sha.encode(), times=3)
            claim = await one.claims.confirm(TOOL, SESSION)
            assert proxy.sprung == 3
            assert one.owner() == (one.node.id, claim.token)

    @on_loop
    async def test_a_claim_whose_answer_was_lost_is_not_kept(
        self, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """Redis made the node the owner, and it never heard so: it asks again, and frees what nobody wants by then."""
        async with owning(through(proxy), client, keys) as one:
            await one.claims.confirm(TOOL, "t:warm")
            proxy.swallow_next_reply()
            asking = asyncio.create_task(one.claims.confirm(TOOL, SESSION))
            await until(lambda: one.owner() is not None, description="Redis to have heard it")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert one.owner() is not None
            assert await one.claims.released(5)
            assert one.owner() is None

    @on_loop
    async def test_what_a_dead_incarnation_was_given_is_not_the_next_one_s(
        self, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """The node learns that it was declared dead while the answer is on its way."""
        async with owning(through(proxy), client, keys) as one:
            await one.claims.confirm(TOOL, "t:warm")
            proxy.delay = 0.1
            asking = asyncio.create_task(one.claims.confirm(TOOL, SESSION))
            await until(lambda: one.owner() is not None, description="Redis to have heard it")
            one.claims.drop_all()
            one.node.renew()
            with pytest.raises(NotOwner):
                await asking
            assert list(one.claims) == []


class TestCaps:
    """A session that is nobody's is created only below the caps of its call."""

    @pytest.mark.parametrize(("caps", "whose"), [(Caps(1, 0), "tool"), (Caps(0, 1), "tenant")])
    def test_a_cap_keeps_it_from_being_created(
        self, caps: Caps, whose: str, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """The same refusal as at the fetch; what the node owns is not refused, nor what a dead node left."""

        @on_loop
        async def scenario() -> None:
            async with owning(address, client, keys) as one:
                delivery.live(client, keys, OTHER)
                delivery.reclaim(client, keys, OTHER)
                with pytest.raises(SessionLimit) as refused:
                    await one.claims.confirm(TOOL, "t:new", caps)
                assert refused.value.data["reason"] == whose
                assert one.owner("t:new") is None
                delivery.die(client, keys, OTHER)
                claim = await one.claims.confirm(TOOL, SESSION, caps)
                assert await one.claims.confirm(TOOL, SESSION, caps) is claim
                assert one.owner() == (one.node.id, claim.token)

        scenario()


class TestGivenUp:
    """The lease may have ended: the sessions are closed, and freed when Redis is there."""

    @on_loop
    async def test_nothing_is_sent_and_nobody_else_s_is_freed(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """Freed when the last link is closed, unless another has claimed it meanwhile."""
        async with owning(address, client, keys) as one:
            one.node.confirm(float("inf"))
            mine, taken, unused = one.claimed(), one.claimed("t:taken"), one.claimed("t:unused")
            for claim in (mine, taken):
                one.claims.enter(claim)
            assert one.claims.may_use(mine)
            one.claims.give_up_all()
            assert not any(map(one.claims.may_use, (mine, taken, unused)))
            client.hset(keys.sessions(TOOL), "t:taken", "other:1 9999999999999999 1")
            await one.claims.confirm(TOOL, "t:other")  # behind all that was sent before
            assert one.owner() == (one.node.id, mine.token)
            for claim in (mine, taken):
                one.claims.leave(claim)
            assert await one.claims.released(5)
            assert (one.owner(), one.owner("t:unused")) == (None, None)
            assert one.owner("t:taken") == (OTHER, 9999999999999999)
            assert [claim.session for claim in one.claims] == ["t:other"]

    @on_loop
    async def test_a_call_that_comes_meanwhile_waits_for_its_end(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """Two links of one session would live otherwise."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            one.claims.enter(claim)
            one.claims.give_up_all()
            assert one.claims.find(TOOL, SESSION, claim.token) is None
            asking = asyncio.create_task(one.claims.confirm(TOOL, SESSION))
            for other in ("t:other", "t:another", "t:third"):
                await one.claims.confirm(TOOL, other)
            assert not asking.done()
            one.claims.leave(claim)
            again = await asking
            assert (again.lost, one.owner()) == (False, (one.node.id, again.token))
            assert again.token > claim.token


class TestRelease:
    """A session is free again when the last local session under it has ended, and not before."""

    @on_loop
    async def test_the_last_one_frees_it(self, client: Client, address: StoreAddress, keys: Keys) -> None:
        """Two eras may live under one claim."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            one.claims.enter(claim)
            one.claims.enter(claim)
            one.claims.leave(claim)
            one.claims.free_unused(claim)
            assert claim.releasing is None
            one.claims.leave(claim)
            assert await one.claims.released(5)
            assert (one.owner(), claim.lost) == (None, True)
            assert not one.claims.owns_any_of(TOOL)

    @on_loop
    async def test_one_that_no_session_used_is_freed(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """It would count for the caps for ever."""
        async with owning(address, client, keys) as one:
            one.claims.free_unused(one.claimed())
            assert await one.claims.released(5)
            assert one.owner() is None
            assert client.exists(keys.node_sessions(one.node.id)) == 0

    @on_loop
    async def test_a_stale_token_is_not_believed_after_a_release(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """A call that was fetched before it may begin behind it: Redis is asked, and gives a greater token."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            one.used_and_left(claim)
            assert await one.claims.released(5)
            assert one.claims.find(TOOL, SESSION, claim.token) is None
            assert one.claims.find(TOOL, SESSION, claim.token - 1) is None
            again = await one.claims.confirm(TOOL, SESSION)
            assert again.token > claim.token
            assert one.owner() == (one.node.id, again.token)

    @on_loop
    async def test_a_call_while_the_session_is_being_freed(
        self, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """It does not get the old claim; behind the release it gets another, which that does not take along."""
        async with owning(through(proxy), client, keys) as one:
            claim = one.claimed()
            proxy.delay = 0.1
            one.used_and_left(claim)
            assert one.claims.find(TOOL, SESSION, claim.token) is None
            again = await one.claims.confirm(TOOL, SESSION)
            assert again is not claim
            assert (claim.lost, again.lost) == (True, False)
            assert await one.claims.released(5)
            assert again.token > claim.token
            assert one.owner() == (one.node.id, again.token)
            assert list(one.claims) == [again]

    @on_loop
    async def test_a_call_that_redis_gave_the_session_to_behind_the_release(
        self, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """The node has not heard yet that it is freed: the new claim stands, and the release ends only its own."""
        async with owning(through(proxy), client, keys) as one:
            claim = one.claimed()
            await one.claims.confirm(TOOL, SESSION)  # the connection stands
            proxy.delay = 0.2
            one.used_and_left(claim)
            await until(lambda: one.owner() is None, description="Redis to have freed it")
            again = one.claims.find(TOOL, SESSION, one.fetched("next"))
            assert again is not None
            assert claim.releasing is not None
            assert await one.claims.released(5)
            assert list(one.claims) == [again]
            assert (again.lost, one.owner()) == (False, (one.node.id, again.token))

    @on_loop
    async def test_a_claim_that_came_and_went_while_redis_was_asked(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """The answer names a token that is being given back: it is asked again, and what it gets stays its own."""
        async with owning(address, client, keys) as one:
            await one.claims.confirm(TOOL, "t:warm")
            token = one.fetched("a call of whose fetch the answer was lost")
            asking = asyncio.create_task(one.claims.confirm(TOOL, SESSION))
            await asyncio.sleep(0)
            passing = one.claims.find(TOOL, SESSION, token)
            assert passing is not None
            one.used_and_left(passing)
            claim = await asking
            assert await one.claims.released(5)
            assert not claim.lost
            assert one.owner() == (one.node.id, claim.token)

    @on_loop
    async def test_redis_away(self, client: Client, proxy: TcpProxy, keys: Keys) -> None:
        """It is tried until it is freed: otherwise it would be this node's as long as that lives."""
        async with owning(through(proxy), client, keys) as one:
            claim = one.claimed()
            proxy.refuse()
            one.used_and_left(claim)
            assert not await one.claims.released(0.1)
            assert one.owner() == (one.node.id, claim.token)
            proxy.refuse(False)
            assert await one.claims.released(5)
            assert one.owner() is None

    @on_loop
    async def test_another_incarnation_frees_nothing_of_the_last(
        self, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """That is the rescue's business, and waiting for it would hold up the shutdown."""
        async with owning(through(proxy), client, keys) as one:
            claim = one.claimed()
            proxy.refuse()
            one.used_and_left(claim)
            assert not await one.claims.released(0.1)
            one.claims.drop_all()
            last = one.node.renew()
            assert await one.claims.released(5)
            proxy.refuse(False)
            assert one.owner() == (last, claim.token)

    @on_loop
    async def test_what_is_lost_is_not_freed(self, client: Client, address: StoreAddress, keys: Keys) -> None:
        """The next owner's claim would be taken away, or the work of the rescue done twice."""
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            one.claims.enter(claim)
            one.claims.drop_all()
            one.claims.leave(claim)
            assert (claim.lost, claim.releasing, list(one.claims)) == (True, None, [])
            assert one.owner() == (one.node.id, claim.token)


class TestDirectList:
    """What waits on the node's direct list of a tool goes back once nobody would look into it."""

    def waits(self, one: Owner, raw: Redis) -> None:
        """Let two calls of the node's session be admitted, which go to its direct list at once."""
        for name in ("first", "second"):
            delivery.admit(one.client, one.keys, head(name))
        assert raw.llen(one.keys.direct(one.node.id, queue_of(TOOL))) == 2

    @on_loop
    async def test_with_the_last_session_of_the_tool(
        self, client: Client, address: StoreAddress, keys: Keys, raw: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of it, in its order, also beyond one step."""
        monkeypatch.setattr(claims, "RETURN_STEP", 1)
        async with owning(address, client, keys) as one:
            claim = one.claimed()
            self.waits(one, raw)
            one.used_and_left(claim)
            assert await one.claims.released(5)
            assert delivery.ids(delivery.waiting(client, QUEUE)) == ["first", "second"]
            assert raw.exists(keys.direct(one.node.id, QUEUE)) == 0

    @pytest.mark.parametrize("handing_over", [False, True])
    def test_with_others_left_only_if_the_tool_is_handed_over(
        self, handing_over: bool, client: Client, address: StoreAddress, keys: Keys, raw: Redis
    ) -> None:
        """The node goes on looking into its list, unless all of the tool's sessions are about to go."""

        @on_loop
        async def scenario() -> None:
            async with owning(address, client, keys) as one:
                one.claims.handing_over = lambda tool: handing_over and tool == TOOL
                claim, other = one.claimed(), one.claimed("t:other")
                self.waits(one, raw)
                one.used_and_left(claim)
                assert await one.claims.released(5)
                assert len(delivery.waiting(client, QUEUE)) == (2 if handing_over else 0)
                assert list(one.claims) == [other]
                await one.claims.return_direct(TOOL)
                assert len(delivery.waiting(client, QUEUE)) == 2

        scenario()


class TestReclaim:
    """Redis lost its data: what lives here is asked for again."""

    @on_loop
    async def test_sessions_stay_with_the_node_under_greater_tokens(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """The same claims, so that their calls go on; the old tokens are still good for calls that wait here."""
        async with owning(address, client, keys) as one:
            held = [one.claimed(), one.claimed("t:other")]
            before = [claim.token for claim in held]
            one.forget()
            await one.claims.reclaim_all()
            assert list(one.claims) == held
            assert not any(claim.lost for claim in held)
            assert all(claim.token > token for claim, token in zip(held, before, strict=True))
            assert one.owner() == (one.node.id, held[0].token)
            assert one.claims.find(TOOL, SESSION, before[0]) is held[0]

    @on_loop
    async def test_what_another_has_claimed_meanwhile_is_lost(
        self, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """Its session is not used any more, and not freed either."""
        async with owning(address, client, keys) as one:
            claim, kept = one.claimed(), one.claimed("t:other")
            one.claims.enter(claim)
            one.forget()
            delivery.live(client, keys, OTHER)
            token = delivery.reclaim(client, keys, OTHER)
            await one.claims.reclaim_all()
            assert (claim.lost, kept.lost) == (True, False)
            assert list(one.claims) == [kept]
            one.claims.leave(claim)
            assert claim.releasing is None
            assert one.owner() == (OTHER, token)

    @on_loop
    async def test_without_an_answer_nothing_is_known(
        self, client: Client, proxy: TcpProxy, keys: Keys
    ) -> None:
        """Whether another has claimed it will be known by the next answer; until then the node may not act."""
        async with owning(through(proxy), client, keys) as one:
            claim = one.claimed()
            proxy.refuse()
            with pytest.raises(StoreUnavailable):
                await one.claims.reclaim_all()
            assert (claim.lost, list(one.claims)) == (False, [claim])

    @pytest.mark.parametrize("freed_first", [True, False])
    def test_one_that_is_being_freed_is_free_afterwards(
        self, freed_first: bool, client: Client, address: StoreAddress, keys: Keys
    ) -> None:
        """Whichever of the two Redis hears first: a session that nobody holds must not count as this node's."""

        @on_loop
        async def scenario() -> None:
            async with owning(address, client, keys) as one:
                claim = one.claimed()
                await one.claims.confirm(TOOL, SESSION)  # the connection stands
                one.claims.enter(claim)
                one.forget()
                if freed_first:
                    one.claims.leave(claim)
                asking = asyncio.create_task(one.claims.reclaim_all())
                await asyncio.sleep(0)
                if not freed_first:
                    one.claims.leave(claim)
                await asking
                assert await one.claims.released(5)
                assert (list(one.claims), one.owner()) == ([], None)
                assert client.exists(keys.node_sessions(one.node.id)) == 0

        scenario()
