"""A node's right to act: it ends by the node's own clock, before anybody may take what is its own."""

from __future__ import annotations

import asyncio
import sys
import time
from types import SimpleNamespace

import pytest
from redis import Redis

from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import node
from gateway_worker.node import CUT_OFF, LEASE, SELF_FENCE, Node, lease_time
from gateway_worker.nodes import Nodes
from tests.support.aio import on_loop
from tests.support.tcp_proxy import TcpProxy
from tests.worker.node_member import FakeCluster

SENT = 1000.0


class Hands:
    """The clock of the lease as the node reads it; the test sets it."""

    def __init__(self) -> None:
        self.now = SENT


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """The node's clock, and nobody else's: the loop goes on by the real one."""
    hands = Hands()
    monkeypatch.setattr(node, "lease_time", lambda: hands.now)
    return hands


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a clock that counts sleep")
def test_the_lease_runs_while_the_machine_sleeps() -> None:
    """As it does in Redis: one that wakes up must not take itself for an owner."""
    assert lease_time() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=5)


class TestMayAct:
    """Whether anything may be sent to a backend."""

    @pytest.mark.parametrize(
        ("since_sent", "may"), [(0.0, True), (5.999, True), (6.0, False), (6.001, False), (8.0, False)]
    )
    def test_it_ends_six_seconds_after_the_beat_was_sent(
        self, since_sent: float, may: bool, clock: Hands
    ) -> None:
        """To the moment, and not counted from the answer: a beat that took 2 s leaves 4 s."""
        one = Node("n")
        clock.now = SENT + 2
        one.confirm(SENT)
        clock.now = SENT + since_sent
        assert one.may_act == may

    def test_nobody_else_may_have_the_sessions_by_then(self) -> None:
        """Two seconds lie between, for clocks that run at different speeds and for what is on its way."""
        assert (SELF_FENCE, LEASE) == (6.0, 8.0)

    def test_it_begins_with_the_first_confirmation(self, clock: Hands) -> None:
        """A node that was never listed is missed by nobody when it dies; so is another incarnation."""
        one = Node("n")
        assert not one.may_act
        one.confirm(clock.now)
        assert one.may_act
        one.renew()
        assert not one.may_act

    def test_each_confirmation_begins_it_anew(self, clock: Hands) -> None:
        """Also behind a gap in which the node might not act."""
        one = Node("n")
        for _ in range(2):
            one.confirm(clock.now)
            assert one.may_act
            clock.now += SELF_FENCE
            assert not one.may_act

    def test_an_incarnation_never_comes_back(self) -> None:
        """Each has a name of its own, below its host's; the last one is told."""
        one = Node("celery@host")
        names = [one.id]
        for _ in range(3):
            assert one.renew() == names[-1]
            names.append(one.id)
        assert len(set(names)) == 4
        assert all(name.startswith("celery@host:") for name in names)


class TestUntilConfirmed:
    """Calls wait while the node cannot be sure of its lease."""

    @on_loop
    async def test_whoever_may_act_does_not_wait(self) -> None:
        """Not even for one turn of the loop."""
        one = Node("n")
        one.confirm(float("inf"))
        waiting = one.until_confirmed()
        with pytest.raises(StopIteration):
            waiting.send(None)

    @on_loop
    async def test_all_go_on_with_the_next_confirmation(self, clock: Hands) -> None:
        """Two calls may wait at once."""
        one = Node("n")
        one.confirm(clock.now)
        clock.now += SELF_FENCE
        waiting = [asyncio.create_task(one.until_confirmed()) for _ in range(2)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        one.confirm(clock.now)
        await asyncio.wait_for(asyncio.gather(*waiting), 5)

    @on_loop
    async def test_a_confirmation_that_is_too_old_lets_nobody_go_on(self, clock: Hands) -> None:
        """The answer to a beat of long ago, from a Redis that stood still: the lease may have ended since."""
        one = Node("n")
        waiting = asyncio.create_task(one.until_confirmed())
        await asyncio.sleep(0)
        one.confirm(clock.now - SELF_FENCE)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        one.confirm(clock.now)
        await asyncio.wait_for(waiting, 5)


class TestUntilLapsed:
    """When the node gives up what is its own."""

    @on_loop
    async def test_a_confirmation_puts_it_off(self, clock: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is a minute after the last confirmed beat was sent, not before."""
        one, slept = Node("n"), []

        async def sleep(seconds: float) -> None:
            slept.append(round(seconds, 6))
            clock.now += seconds
            if len(slept) == 1:
                one.confirm(clock.now - 1)

        monkeypatch.setattr(node, "asyncio", SimpleNamespace(sleep=sleep, Event=asyncio.Event))
        one.confirm(SENT)
        await one.until_cut_off()
        assert slept == [CUT_OFF, CUT_OFF - 1]

    @on_loop
    async def test_a_node_without_a_confirmation_has_nothing(self) -> None:
        """It is not waited for."""
        with pytest.raises(StopIteration):
            Node("n").until_cut_off().send(None)


class TestBeat:
    """What a beat through Redis confirms."""

    @on_loop
    async def test_the_time_until_the_answer_counts(
        self, client: Client, proxy: TcpProxy, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A Redis that answers slowly shortens the node's time, as the lease began when it heard the beat."""
        one, store = Node("n"), PipelinedConnection(StoreAddress(url=proxy.url, socket_timeout=5))
        beating = Nodes(one, store, keys, RedisClock(), FakeCluster())
        await beating.beat()
        assert one.may_act
        monkeypatch.setattr(node, "SELF_FENCE", 0.2)
        proxy.delay = 0.3
        await beating.beat()
        assert not one.may_act
        await store.aclose()

    @on_loop
    async def test_the_beat_of_one_that_was_declared_dead_confirms_nothing(
        self, client: Client, address: StoreAddress, keys: Keys, raw: Redis
    ) -> None:
        """Its next incarnation has to beat first."""
        one, store, cluster = Node("n"), PipelinedConnection(address), FakeCluster()
        cluster.node = one
        beating = Nodes(one, store, keys, RedisClock(), cluster)
        raw.set(keys.fenced(one.id), 1, ex=60)
        await beating.beat()
        assert (len(cluster.told), one.may_act) == (1, False)
        await beating.beat()
        assert one.may_act
        await store.aclose()


class TestDoubt:
    """A beat that was not answered."""

    def test_it_shuts_the_gate_soon(self, clock: Hands) -> None:
        """Redis may have forgotten whose the sessions are, and others may claim them a moment later."""
        one = Node("n")
        one.confirm(SENT)
        clock.now = SENT + 1
        one.doubt()
        clock.now = SENT + 2.9
        one.doubt()
        assert one.may_act
        clock.now = SENT + 3.0
        assert not one.may_act
        one.confirm(clock.now)
        assert one.may_act
