"""Ownership and ledger: pure machines and Lua scripts, driven by the same steps, are equal after each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from common.calls.head import Head, head_from_text
from common.domain import ledger as calls
from common.domain import ownership
from common.domain.ids import InvocationId, NodeId, ToolId
from common.domain.ledger import Call, End, Ledger
from common.domain.ownership import Directory, Owner, Standing
from common.domain.rules import Retry
from common.store.client import Client
from common.store.keys import UNACKED_TTL, Keys
from gateway_worker.sweep import LEASE_ENDED, MOST_ATTEMPTS, PROCESS_GONE, fence_script, lost_answer
from tests.lua.twin import TIME_PASSES, TWIN_TIMEOUT, ForcedTime, twin_settings
from tests.support.messages import QUEUE, head, unstamped

TOOL = ToolId("a")
NODES = st.sampled_from([NodeId(name) for name in ("n@1:a", "n@1:b", "n 2")])
SESSIONS = st.sampled_from(["t:c", "t:d", "t-c:x"])
IDS = st.sampled_from([f"i{n}" for n in range(8)])
LEASE = 20_000
REACHED = {"held", "claimed", "tool_limit", "dropped", "passed on", "returned", "lost", "refused", "fenced"}


class DeliveryTwins(RuleBasedStateMachine):
    """Nodes that live, die and are rescued while calls come, are taken, sent, ended and put back."""

    def __init__(self, client: Client, seen: set[str]) -> None:
        super().__init__()
        self.client = client
        self.keys = Keys("test")
        self.time = ForcedTime(client)
        self.directory = Directory()
        self.ledger = Ledger()
        self.max_sessions = self.max_in_flight = 0
        self.tag = 0
        self.taken: list[tuple[NodeId, int, Call]] = []
        self.seen = seen

    @initialize(max_sessions=st.integers(0, 3), max_in_flight=st.sampled_from([0, 0, 1, 3]))
    def it_begins(self, max_sessions: int, max_in_flight: int) -> None:
        self.max_sessions, self.max_in_flight = max_sessions, max_in_flight
        for node in ("n@1:a", "n@1:b"):
            self.beats(NodeId(node))
        for number, session in enumerate(("t:c", "t:d", "t:c", "t-c:x")):
            self.comes(f"i{number}", session, list(Retry)[number % 3])
        self.fetches(NodeId("n@1:a"), from_direct=False)

    @rule(ms=TIME_PASSES)
    def time_passes(self, ms: int) -> None:
        self.time.pass_by(ms)

    @rule(node=NODES)
    def beats(self, node: NodeId) -> None:
        self.directory, expected = ownership.beat(self.directory, node, lease=LEASE, now=self.time.now)
        found, _ = self.time.run("node_beat", [self.keys.nodes, self.keys.fenced(node)], [node, LEASE])
        assert found.decode() == expected
        self._reach("fenced", expected is Standing.FENCED)

    @rule(node=NODES, certain=st.sampled_from([False, False, False, True]))
    def is_declared_dead(self, node: NodeId, certain: bool) -> None:
        self.directory, expected = ownership.fence(self.directory, node, certain=certain, now=self.time.now)
        keys, args = fence_script(self.keys, node, PROCESS_GONE if certain else LEASE_ENDED, actor="t")
        assert bool(self.time.run("node_fence", keys, args)) == expected

    @rule(name=IDS, session=SESSIONS, leave=st.sampled_from(Retry))
    def comes(self, name: str, session: str, leave: Retry) -> None:
        call = Call(id=name, session=session, leave=leave)
        of = head(name, session=session, leave=leave)
        # The cap is only a hint at admission, and kept where sessions are created: here every call is admitted.
        named = [QUEUE, self.keys.drain(QUEUE), self.keys.head(QUEUE)]
        answer = self.time.run(
            "admit", named, [self._message(of), self.keys.begin, 0, 0, 1, 1, 100], clock_reads=2
        )
        if answer[0] != b"admitted":
            assert answer[0] == b"tool_limit"
            assert not self.directory.owners.get(session)
            assert len(self.directory.owners) >= self.max_sessions > 0
            return
        self.ledger = calls.admit(self.ledger, self.directory, call, now=self.time.now)

    def _message(self, of: Head) -> bytes:
        return unstamped(replace(of, max_sessions=self.max_sessions or None))

    @rule(node=NODES, from_direct=st.booleans())
    def fetches(self, node: NodeId, from_direct: bool) -> None:
        self.tag += 1
        before = self.ledger
        self.ledger, self.directory, expected = calls.take(
            self.ledger,
            self.directory,
            node,
            tag=self.tag,
            from_direct=from_direct,
            max_in_flight=self.max_in_flight,
            max_sessions=self.max_sessions,
            now=self.time.now,
            now_us=self.time.now * 1000 + self.time.now * 7919 % 1000,
        )
        source = self.keys.direct(node, QUEUE) if from_direct else QUEUE
        args = [1, self.tag, UNACKED_TTL, 1000, 10, self.keys.begin, node, QUEUE, self.max_in_flight]
        _, flat, _, _, dropped = self.time.run(
            "fetch", [self.keys.unacked(node), source], args, clock_reads=2
        )
        self._reach("dropped", bool(dropped))
        self._reach(
            "passed on", sum(map(len, before.direct.values())) < sum(map(len, self.ledger.direct.values()))
        )
        if expected is None:
            assert flat == []
            return
        _, tag, message, verdict, token = flat
        assert (int(tag), _call(message)) == (self.tag, expected.call)
        assert (verdict.decode(), int(token)) == (expected.verdict.value, expected.token)
        self._reach(expected.verdict.value, True)
        self.taken.append((node, self.tag, expected.call))

    @rule(node=NODES)
    def dies_and_is_worked_off(self, node: NodeId) -> None:
        self.is_declared_dead(node, certain=True)
        self.is_worked_off(node, 2)

    @rule(data=st.data())
    def is_not_sent_yet(self, data: st.DataObject) -> None:
        key = self._one_held(data)
        if key is not None:
            self.client.hset(self.keys.unsent(NodeId(key[0])), str(key[1]), 1)
            record = replace(self.ledger.held[key], unsent=True)
            self.ledger = replace(self.ledger, held={**self.ledger.held, key: record})

    @rule(data=st.data())
    def ends(self, data: st.DataObject) -> None:
        """Any call that was ever taken, by who took it: some are ended, returned or lost by then."""
        if not self.taken:
            return
        node, tag, call = data.draw(st.sampled_from(self.taken))
        if (
            (node, tag) not in self.ledger.held
            and node not in self.directory.dead
            and call.id not in self.ledger.ends
        ):
            return  # put back by its own node: that one does not answer it
        self.ledger, accepted = calls.finish(self.ledger, self.directory, node, tag, call)
        of = [str(tag), call.id, QUEUE, call.session, "", "answered", "", 1]
        refused, _ = self.time.run(
            "finish", [self.keys.unacked(node)], [self.keys.begin, node, 10_000_000, *of]
        )
        assert refused == ([] if accepted else [1])
        self._reach("refused", not accepted)

    @rule(data=st.data())
    def goes_back(self, data: st.DataObject) -> None:
        key = self._one_held(data)
        if key is not None:
            node, tag = key
            self.ledger = calls.put_back(self.ledger, node, tag)
            args = [self.keys.begin, node, str(tag)]
            assert self.time.run("call_return", [self.keys.unacked(NodeId(node))], args) == 1

    @rule(data=st.data(), right=st.booleans())
    def is_freed(self, data: st.DataObject, right: bool) -> None:
        if not self.directory.owners:
            return
        session, owner = data.draw(st.sampled_from(sorted(self.directory.owners.items())))
        owner = owner if right else Owner(owner.node, owner.token - 1)
        self.directory, expected = ownership.release(self.directory, session, owner)
        args = [self.keys.begin, owner.node, "a", session, str(owner.token)]
        found = self.time.run("session_release", [self.keys.sessions(TOOL)], args, clock_reads=1)
        assert bool(found) == expected

    @rule(node=NODES, session=SESSIONS)
    def asks_again(self, node: NodeId, session: str) -> None:
        now_us = self.time.now * 1000 + self.time.now * 7919 % 1000
        self.directory, expected = ownership.reclaim(
            self.directory, session, node, now=self.time.now, now_us=now_us
        )
        args = [self.keys.begin, node, "a", session]
        found = self.time.run("session_reclaim", [self.keys.sessions(TOOL)], args, clock_reads=2)
        assert (None if found is None else int(found)) == (None if expected is None else expected.token)

    @rule(node=NODES, step=st.integers(1, 4))
    def is_worked_off(self, node: NodeId, step: int) -> None:
        before = self.ledger
        self.ledger, self.directory = calls.rescue(self.ledger, self.directory, node)
        keys = self.keys
        named = [
            keys.nodes,
            keys.fenced(node),
            keys.unacked(node),
            keys.unsent(node),
            keys.direct_queues(node),
        ]
        args = [keys.begin, node, step, MOST_ATTEMPTS, 10_000_000, *lost_answer(), 100]
        done = node not in self.directory.dead
        while not done:
            done = bool(
                self.time.run(
                    "node_rescue", [*named, keys.node_sessions(node), keys.audit], args, clock_reads=2
                )[0]
            )
        lost = sum(end is End.LOST for end in self.ledger.ends.values())
        self._reach("lost", lost > sum(end is End.LOST for end in before.ends.values()))
        self._reach("returned", any(call.attempt for call in self.ledger.queue))

    def _one_held(self, data: st.DataObject) -> tuple[str, int] | None:
        living = sorted(key for key in self.ledger.held if key[0] not in self.directory.dead)
        return data.draw(st.sampled_from(living)) if living else None

    def _reach(self, what: str, reached: bool) -> None:
        if reached:
            self.seen.add(what)

    @invariant()
    def equal(self) -> None:
        """Everything that the scripts keep."""
        client, keys = self.client, self.keys
        leases = {name.decode(): int(end) for name, end in client.zrange(keys.nodes, 0, -1, withscores=True)}
        assert leases == self.directory.leases
        owners = {
            session.decode(): _owner(record)
            for session, record in client.hgetall(keys.sessions(TOOL)).items()
        }
        assert owners == self.directory.owners
        assert _calls(client, QUEUE) == self.ledger.queue
        for node in {*self.ledger.direct, *leases}:
            assert _calls(client, keys.direct(NodeId(node), QUEUE)) == self.ledger.direct.get(node, ())
        waiting = sum(map(len, self.ledger.direct.values()))
        assert int(client.hget(keys.direct_waiting, QUEUE) or 0) == waiting
        flying = {
            node.decode(): int(number) for node, number in client.hgetall(keys.in_flight(QUEUE)).items()
        }
        assert flying == dict(self.ledger.in_flight)
        assert {name.decode() for name in client.hkeys(keys.calls)} == {
            record.call.id for record in self.ledger.held.values()
        }
        for call, end in self.ledger.ends.items():
            record = client.get(keys.result(InvocationId(call))) or b""
            assert (b"WORKER_LOST" in record) == (end is End.LOST)


def _owner(record: bytes) -> Owner:
    node, token, _ = record.decode().rsplit(" ", 2)
    return Owner(node, int(token))


def _call(message: bytes) -> Call:
    of = head_from_text(orjson.loads(message)["canalgate"])
    return Call(id=of.id, session=of.session, leave=of.leave, attempt=of.attempt)


def _calls(client: Client, name: str) -> tuple[Call, ...]:
    found: list[Any] = client.lrange(name, 0, -1)
    return tuple(_call(message) for message in reversed(found))


@pytest.mark.timeout(TWIN_TIMEOUT)
def test_the_pure_machines_and_the_scripts_are_twins(client: Client) -> None:
    """Equal after each step; and the steps lead everywhere, or the test would show nothing."""
    seen: set[str] = set()
    run_state_machine_as_test(lambda: DeliveryTwins(client, seen), settings=twin_settings())
    client.flushdb()
    assert seen >= REACHED, REACHED - seen
