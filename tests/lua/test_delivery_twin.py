"""Ownership and ledger: pure machines and Lua scripts, driven by the same steps, are equal after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from common.domain import ledger as calls
from common.domain import ownership
from common.domain.ids import InvocationId, NodeId, TenantId, ToolId, encode_part
from common.domain.ledger import Call, End, Ledger, Limits, Refusal, Verdict
from common.domain.ownership import Directory, Owner, Standing, tenant_of
from common.domain.rules import Retry
from common.store.client import Client
from common.store.keys import Keys
from gateway_worker.sweep import LEASE_ENDED, MOST_ATTEMPTS, PROCESS_GONE, fence_script, lost_answer
from tests.lua.kept import Kept, call_of, calls_of, read
from tests.lua.twin import TIME_PASSES, TWIN_TIMEOUT, ForcedTime, twin_settings
from tests.support.messages import QUEUE, head, unstamped

TOOL = ToolId("a")
N1, N2, N3 = NODE_IDS = tuple(NodeId(name) for name in ("n@1:a", "n@1:b", "n 2%|ü"))
NODES = st.sampled_from(NODE_IDS)
SESSION_IDS = ("t:c", "t:d", "t-c:x", "%7C:c:m")
TENANTS = [TenantId(name) for name in ("t", "t-c", "|")]
SESSIONS = st.sampled_from(SESSION_IDS)
CALL_IDS = ("i0", "i1", "i|2", "i%3", "i ü", "i5")
IDS = st.sampled_from(CALL_IDS)
WHICH = st.integers(0, 9)
LEASE = 20_000
LIMITS = st.builds(
    Limits,
    in_flight=st.sampled_from([0, 0, 1, 3]),
    max_sessions=st.sampled_from([0, 0, 1, 3]),
    tenant_max_sessions=st.sampled_from([0, 0, 1]),
)
REACHED = {
    *Verdict,
    *Refusal,
    "fenced",
    "dropped",
    "passed on",
    "full",
    "returned",
    "lost",
    "late",
    "in time",
}


class DeliveryTwins(RuleBasedStateMachine):
    """Nodes that live, die and are rescued while calls come, are taken, sent, ended and put back."""

    def __init__(self, client: Client, seen: set[str]) -> None:
        super().__init__()
        self.client = client
        self.keys = Keys("test")
        self.time = ForcedTime(client)
        self.directory = Directory()
        self.ledger = Ledger()
        self.limits = Limits()
        self.tag = self.answers = 0
        self.taken: list[tuple[NodeId, int, Call]] = []
        self.seen = seen

    @property
    def now_us(self) -> int:
        """The forced time in microseconds, as :class:`ForcedTime` makes it."""
        return self.time.now * 1000 + self.time.now * 7919 % 1000

    @initialize(limits=LIMITS, again=st.booleans())
    def it_begins(self, limits: Limits, again: bool) -> None:
        """Two nodes, some calls, one of them perhaps sent twice, and the first is taken."""
        self.limits = limits
        for node in (N1, N2):
            self.beats(node)
        for number, session in enumerate(("t:c", "t:c", "t:d", "t-c:x")):
            name = CALL_IDS[0 if again and number == 1 else number]
            self.comes(name, session, list(Retry)[number % 3], may_create=True)
        self.fetches(N1, from_direct=False)

    @rule(ms=TIME_PASSES)
    def time_passes(self, ms: int) -> None:
        self.time.pass_by(ms)

    @rule(in_flight=st.integers(0, 3))
    def is_bounded(self, in_flight: int) -> None:
        """The tool's bound on calls in flight is another one; those on sessions travel with the calls."""
        self.limits = replace(self.limits, in_flight=in_flight)

    @rule(node=NODES)
    def beats(self, node: NodeId) -> None:
        self.directory, expected = ownership.beat(self.directory, node, lease=LEASE, now=self.time.now)
        found = self.time.run("node_beat", [self.keys.nodes, self.keys.fenced(node)], [node, LEASE])
        assert found == [expected.value.encode(), self.time.now]
        self._reach("fenced", expected is Standing.FENCED)

    @rule(node=NODES, certain=st.sampled_from([False, False, False, True]))
    def is_declared_dead(self, node: NodeId, certain: bool) -> None:
        self.directory, expected = ownership.fence(self.directory, node, certain=certain, now=self.time.now)
        keys, args = fence_script(self.keys, node, PROCESS_GONE if certain else LEASE_ENDED, actor="t")
        assert bool(self.time.run("node_fence", keys, args)) == expected

    @rule(name=IDS, session=SESSIONS, leave=st.sampled_from(Retry), may_create=st.integers(0, 9).map(bool))
    def comes(self, name: str, session: str, leave: Retry, may_create: bool) -> None:
        self.ledger, refusal = calls.admit(
            self.ledger,
            self.directory,
            Call(id=name, session=session, leave=leave),
            self.limits,
            may_create=may_create,
        )
        of = head(
            name,
            session=session,
            leave=leave,
            max_sessions=self.limits.max_sessions or None,
            tenant_max_sessions=self.limits.tenant_max_sessions or None,
        )
        named = [QUEUE, self.keys.drain(QUEUE), self.keys.head(QUEUE)]
        args = [unstamped(of), self.keys.begin, 0, 0, int(may_create), 1, 100]
        answer = self.time.run("admit", named, args)
        assert answer[0].decode() == (refusal or "admitted")
        self._reach(refusal or "", refusal is not None)

    @rule(node=NODES, from_direct=st.booleans())
    def fetches(self, node: NodeId, from_direct: bool) -> None:
        self.tag += 1
        before = self.ledger
        self.ledger, self.directory, expected = calls.take(
            self.ledger,
            self.directory,
            node,
            self.limits,
            tag=self.tag,
            from_direct=from_direct,
            now=self.time.now,
            now_us=self.now_us,
        )
        source = self.keys.direct(node, QUEUE) if from_direct else QUEUE
        args = [1, self.tag, 1000, 10, self.keys.begin, node, QUEUE, self.limits.in_flight]
        status, flat, _, _, dropped = self.time.run(
            "fetch", [self.keys.unacked(node), source], args, clock_reads=2
        )
        may_take = self.directory.may_take(node, self.time.now)
        assert status == (b"taken" if may_take else b"lapsed")
        self._reach("dropped", bool(dropped))
        passed_on = sum(map(len, self.ledger.direct.values())) > sum(map(len, before.direct.values()))
        self._reach("passed on", passed_on)
        self._reach("full", may_take and bool(before.queue) and not from_direct and before == self.ledger)
        if expected is None:
            assert flat == []
            return
        _, tag, message, verdict, token = flat
        assert (int(tag), call_of(message)) == (self.tag, expected.call)
        assert (verdict.decode(), int(token)) == (expected.verdict.value, expected.token)
        self._reach(expected.verdict, True)
        self.taken.append((node, self.tag, expected.call))

    @rule(node=NODES)
    def dies_and_is_worked_off(self, node: NodeId) -> None:
        self.is_declared_dead(node, certain=True)
        self.is_worked_off(node, 2)

    @rule(which=WHICH, unsent=st.booleans())
    def is_noted(self, which: int, unsent: bool) -> None:
        """That a call is not sent yet, or that it is."""
        for node, tag in self._one_held(which):
            self.ledger = calls.note(self.ledger, node, tag, unsent=unsent)
            self.client.hset(self.keys.unsent(NodeId(node)), str(tag), int(unsent))

    @rule(name=IDS)
    def is_declared_begun(self, name: str) -> None:
        """By a node that remembers it; Redis may have forgotten that."""
        self.ledger = calls.declare(self.ledger, name)
        self.client.set(self.keys.began(InvocationId(name)), "a node", ex=3600)

    @rule(which=st.integers(0, 99))
    def ends(self, which: int) -> None:
        """Any call that was ever taken, by who took it: some are ended, returned or lost by then."""
        if not self.taken:
            return
        node, tag, call = self.taken[which % len(self.taken)]
        recorded = (node, tag) in self.ledger.held
        if not recorded and node not in self.directory.dead and call.id not in self.ledger.ends:
            return  # put back by its own node: that one does not answer it
        self._reach("in time", recorded and node in self.directory.dead)
        self.ledger, accepted = calls.finish(self.ledger, self.directory, node, tag, call)
        self.answers += 1
        of = [str(tag), call.id, QUEUE, call.session, "", f"answer {self.answers}", "", 1, "", "0"]
        args = [self.keys.begin, node, 10_000_000, "", *of]
        refused, _ = self.time.run("finish", [self.keys.unacked(node)], args, clock_reads=0)
        assert refused == ([] if accepted else [1])
        self._reach("late", not accepted)

    @rule(which=WHICH)
    def goes_back(self, which: int) -> None:
        for node, tag in self._one_held(which):
            declared = self.ledger.held[node, tag].call.id in self.ledger.declared
            self.ledger = calls.put_back(self.ledger, node, tag)
            args = [self.keys.begin, node, str(tag)]
            back = self.time.run("call_return", [self.keys.unacked(NodeId(node))], args, clock_reads=0)
            assert back == int(not declared)

    @rule(which=WHICH, older=st.sampled_from([0, 0, 1]))
    def is_freed(self, which: int, older: int) -> None:
        owners = sorted(self.directory.owners.items())
        for session, owner in owners[which % len(owners) :][:1] if owners else ():
            mine = Owner(owner.node, owner.token - older)
            self.directory, expected = ownership.release(self.directory, session, mine)
            args = [self.keys.begin, mine.node, "a", session, str(mine.token)]
            found = self.time.run("session_release", [self.keys.sessions(TOOL)], args, clock_reads=0)
            assert bool(found) == expected

    @rule(node=NODES, session=SESSIONS)
    def asks_again(self, node: NodeId, session: str) -> None:
        self.directory, expected = ownership.reclaim(
            self.directory, session, node, now=self.time.now, now_us=self.now_us
        )
        args = [self.keys.begin, node, "a", session]
        found = self.time.run("session_reclaim", [self.keys.sessions(TOOL)], args, clock_reads=2)
        assert (None if found is None else int(found)) == (None if expected is None else expected.token)

    @rule(node=NODES, step=st.integers(1, 4))
    def is_worked_off(self, node: NodeId, step: int) -> None:
        """In as many steps as it takes."""
        before, keys = self.ledger, self.keys
        self.ledger, self.directory = calls.rescue(self.ledger, self.directory, node)
        named = [
            *(keys.nodes, keys.fenced(node), keys.unacked(node), keys.unsent(node)),
            *(keys.direct_queues(node), keys.node_sessions(node), keys.audit),
        ]
        args = [keys.begin, node, step, MOST_ATTEMPTS, 10_000_000, *lost_answer(), 100]
        done = node not in self.directory.dead
        while not done:
            done = bool(self.time.run("node_rescue", named, args)[0])
        self._reach("lost", _lost(self.ledger) > _lost(before))
        self._reach("returned", any(call.attempt for call in self.ledger.queue))

    def _one_held(self, which: int) -> Sequence[tuple[str, int]]:
        """One of the calls that living nodes hold, if there is any."""
        living = sorted(key for key in self.ledger.held if key[0] not in self.directory.dead)
        return [living[which % len(living)]] if living else []

    def _reach(self, what: str, reached: bool) -> None:
        if reached:
            self.seen.add(what)

    @invariant()
    def equal(self) -> None:
        """Everything that the scripts keep: states, tokens, lists, records, indices and counts."""
        directory, ledger, keys = self.directory, self.ledger, self.keys
        kept = self._kept()
        assert {name: int(end) for name, end in kept.pairs(keys.nodes)} == directory.leases
        assert {name: _owner(record) for name, record in kept.pairs(keys.sessions(TOOL))} == directory.owners
        assert int(kept.values[keys.fence] or 0) == directory.last_token
        assert calls_of(kept.items(QUEUE)) == ledger.queue
        under_way = {record.call.id: f"{node} {tag}" for (node, tag), record in ledger.held.items()}
        assert {name: place.decode() for name, place in kept.pairs(keys.calls(QUEUE))} == under_way
        for tenant in TENANTS:
            owned = {f"a|{name}" for name in directory.owners if tenant_of(name) == encode_part(tenant)}
            assert kept.members(keys.tenant_sessions(tenant)) == owned
        for node in NODE_IDS:
            self._compare(node, kept)
        for call in CALL_IDS:
            record = kept.values[keys.result(InvocationId(call))]
            assert (record is not None) == (call in ledger.ends)
            assert (b"WORKER_LOST" in (record or b"")) == (ledger.ends.get(call) is End.LOST)

    def _compare(self, node: NodeId, kept: Kept) -> None:
        """What is kept of one node."""
        keys = self.keys
        held = {tag: record for (holder, tag), record in self.ledger.held.items() if holder == node}
        assert calls_of(kept.items(keys.direct(node, QUEUE))) == self.ledger.direct.get(node, ())
        assert {int(tag): call_of(message) for tag, message in kept.pairs(keys.unacked(node))} == {
            tag: record.call for tag, record in held.items()
        }
        unsent = {int(tag) for tag, noted in kept.pairs(keys.unsent(node)) if noted == b"1"}
        assert unsent == {tag for tag, record in held.items() if record.unsent}
        owned = {f"a|{name}" for name, owner in self.directory.owners.items() if owner.node == node}
        assert kept.members(keys.node_sessions(node)) == owned

    def _kept(self) -> Kept:
        """All of it, read at once."""
        keys = self.keys
        named = [
            *(keys.nodes, keys.sessions(TOOL), keys.fence, QUEUE, keys.calls(QUEUE)),
            *map(keys.tenant_sessions, TENANTS),
            *(keys.result(InvocationId(name)) for name in CALL_IDS),
        ]
        for node in NODE_IDS:
            named += [
                keys.direct(node, QUEUE),
                keys.unacked(node),
                keys.unsent(node),
                keys.node_sessions(node),
            ]
        return read(self.client, named)


def _owner(record: bytes) -> Owner:
    node, token, _ = record.decode().rsplit(" ", 2)
    return Owner(node, int(token))


def _lost(ledger: Ledger) -> int:
    return sum(end is End.LOST for end in ledger.ends.values())


def walk(client: Client, seen: set[str], limits: Limits) -> None:
    """A way by hand, so that what the random ones show does not depend on their luck."""
    twins = DeliveryTwins(client, seen)
    twins.it_begins(limits, again=not limits.max_sessions)
    for step in (
        lambda: twins.fetches(N2, from_direct=False),
        lambda: twins.comes("i5", "t:c", Retry.SAFE, may_create=True),
        lambda: twins.fetches(N1, from_direct=True),
        lambda: twins.comes("i1", "%7C:c:m", Retry.SAFE, may_create=False),
        lambda: twins.comes("i1", "t:d", Retry.SAFE, may_create=True),
        lambda: twins.asks_again(N2, "t-c:x"),
        lambda: twins.is_bounded(1),
        lambda: twins.fetches(N1, from_direct=False),
        lambda: twins.is_bounded(0),
        lambda: twins.fetches(N1, from_direct=False),
        lambda: twins.fetches(N2, from_direct=True),
        lambda: twins.is_noted(0, unsent=True),
        lambda: twins.is_declared_begun("i|2"),
        lambda: twins.is_declared_dead(N2, certain=True),
        lambda: twins.ends(1),
        lambda: twins.dies_and_is_worked_off(N1),
        lambda: twins.ends(0),
        lambda: twins.beats(N1),
        lambda: twins.is_worked_off(N2, 1),
        lambda: twins.beats(N3),
        *[lambda: twins.fetches(N3, from_direct=False)] * 3,
        lambda: twins.goes_back(0),
        lambda: twins.is_freed(0, older=1),
        lambda: twins.is_freed(0, older=0),
    ):
        step()
        twins.equal()


def die_in_turn(client: Client, seen: set[str]) -> None:
    """What chance hardly finds: exact bounds, a takeover before the sweep, and a call that outlives three nodes."""
    twins = DeliveryTwins(client, seen)
    twins.limits = Limits(max_sessions=1)
    for step in (
        *(lambda node=node: twins.beats(node) for node in NODE_IDS),
        lambda: twins.comes("i0", "t:c", Retry.SAFE, may_create=True),
        lambda: twins.fetches(N1, from_direct=False),
        lambda: twins.asks_again(N2, "t:c"),
        lambda: twins.comes("i1", "t:c", Retry.SAFE, may_create=True),
        lambda: twins.is_bounded(1),
        lambda: twins.fetches(N1, from_direct=True),
        lambda: twins.is_bounded(0),
        lambda: twins.fetches(N1, from_direct=True),
        lambda: twins.is_noted(0, unsent=True),
        lambda: twins.goes_back(0),
        lambda: twins.is_declared_begun("i0"),
        lambda: twins.fetches(N1, from_direct=False),
        lambda: twins.is_declared_dead(N1, certain=True),
        lambda: twins.comes("i5", "t:c", Retry.SAFE, may_create=True),
        lambda: twins.fetches(N2, from_direct=False),
        lambda: twins.is_worked_off(N1, 1),
        lambda: twins.fetches(N2, from_direct=False),
        lambda: twins.dies_and_is_worked_off(N2),
        *[lambda: twins.fetches(N3, from_direct=False)] * 2,
        lambda: twins.dies_and_is_worked_off(N3),
    ):
        step()
        twins.equal()
    assert max(call.attempt for call in twins.ledger.queue) == MOST_ATTEMPTS


@pytest.mark.timeout(TWIN_TIMEOUT)
def test_the_pure_machines_and_the_scripts_are_twins(client: Client) -> None:
    """Equal after each step; and the steps lead everywhere, or the test would show nothing."""
    seen: set[str] = set()
    for limits in (Limits(), Limits(max_sessions=1), Limits(tenant_max_sessions=1)):
        walk(client, seen, limits)
    die_in_turn(client, seen)
    assert seen >= REACHED, REACHED - seen
    run_state_machine_as_test(lambda: DeliveryTwins(client, seen), settings=twin_settings())
    client.flushdb()
