"""The keeper on a real Redis: everything is sealed once, every sink gets all of it, and nothing else is trimmed."""

from __future__ import annotations

import threading

import pytest

from common.audit.chain_store import ChainStore, NotKeeper
from common.audit.journal import Journal
from common.audit.verify import verify_redis
from common.domain.audit_chain import START, Position, seal_all
from common.domain.audit_verify import Flaw, Verifier
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.common.audit.chains import Collector, head_of, keeper_of, kept, write_events
from tests.support.wait import wait_until


def whole(sink: Collector, key: bytes = b"") -> Verifier:
    verifier = Verifier(key)
    for record in sink.got:
        verifier.feed(record)
    verifier.begins_at(START)
    return verifier


def test_a_sink_gets_everything_in_order(client: Client, keys: Keys, address: StoreAddress) -> None:
    """What was there before the keeper, and what comes while it runs."""
    write_events(client, keys, 1200)
    sink = Collector()
    with kept(keeper_of(address, keys, {"a": sink}, key=b"k")):
        wait_until(lambda: len(sink.got) == 1200, description="what was there")
        write_events(client, keys, 30, first=1200)
        wait_until(lambda: len(sink.got) == 1230, description="what came")
        head = head_of(client, keys)
        wait_until(lambda: ChainStore(client, keys).state().sinks.get("a") == head, description="its place")
    assert [record.event["detail"] for record in sink.got] == [str(number) for number in range(1230)]
    assert whole(sink, b"k").problems == []
    assert sink.got[-1].position == head
    assert sink.closed
    assert verify_redis(ChainStore(client, keys), b"k").sound


def test_what_comes_last_is_delivered_before_it_ends(
    client: Client, keys: Keys, address: StoreAddress
) -> None:
    """And the lease is free at once."""
    sink = Collector()
    with kept(keeper_of(address, keys, {"a": sink})):
        wait_until(lambda: client.exists(keys.audit_lease), description="the keeper")
        write_events(client, keys, 5)
    assert len(sink.got) == 5
    assert not client.exists(keys.audit_lease)


def test_a_sink_that_cannot_be_closed_keeps_nobody_from_ending(
    client: Client, keys: Keys, address: StoreAddress
) -> None:
    """The other is closed, and the lease is free at once."""
    bad, good = Unclosable(), Collector()
    keeper = keeper_of(address, keys, {"bad": bad, "good": good})
    with kept(keeper):
        wait_until(lambda: client.exists(keys.audit_lease), description="the keeper")
    assert (bad.closed, good.closed) == (True, True)
    assert not client.exists(keys.audit_lease)


def test_another_keeper_goes_on_where_the_last_one_stopped(
    client: Client, keys: Keys, address: StoreAddress
) -> None:
    """One chain, whoever sealed which part of it."""
    first, second = Collector(), Collector()
    write_events(client, keys, 100)
    with kept(keeper_of(address, keys, {"a": first})):
        wait_until(lambda: len(first.got) == 100, description="the first part")
    write_events(client, keys, 100, first=100)
    with kept(keeper_of(address, keys, {"a": second})):
        wait_until(lambda: len(second.got) == 100, description="the second part")
    both = Collector()
    both.got = first.got + second.got
    assert both.numbers == list(range(1, 201))
    assert whole(both).problems == []


def test_two_keepers_never_fork_the_chain(client: Client, keys: Keys, address: StoreAddress) -> None:
    """One that slept through its lease is refused whatever it writes then."""
    write_events(client, keys, 10)
    slow, quick = ChainStore(client, keys, "slow"), ChainStore(client, keys, "quick")
    assert slow.keep()
    assert not quick.keep()
    client.delete(keys.audit_lease)
    assert quick.keep()
    place = Position("1-0", 1, "a" * 64)
    for refused in (
        lambda: slow.move_head(START, place),
        lambda: slow.move_sink("a", None, place),
        lambda: slow.trim(place, []),
    ):
        with pytest.raises(NotKeeper):
            refused()
    quick.move_head(START, place)
    with pytest.raises(NotKeeper):
        quick.move_head(START, place)
    assert quick.state().head == place


def test_nothing_is_trimmed_that_a_sink_has_not_got(client: Client, keys: Keys) -> None:
    """Whoever asks for it: it is asked again in the step that trims."""
    write_events(client, keys, 10)
    store = ChainStore(client, keys, "me")
    store.keep()
    sealed = seal_all(START, store.entries("0", 10))
    store.move_head(START, sealed[-1].position)
    store.move_sink("quick", None, sealed[8].position)
    store.move_sink("slow", None, sealed[3].position)
    for holders in (["quick", "slow"], ["quick", "nobody"]):
        with pytest.raises(NotKeeper):
            store.trim(sealed[4].position, holders)
    assert client.xlen(keys.audit) == 10
    assert store.trim(sealed[3].position, ["quick", "slow"]) == 4
    assert store.state().anchor == sealed[3].position
    assert verify_redis(store).sound


def test_a_keeper_that_lost_its_lease_gives_up(client: Client, keys: Keys, address: StoreAddress) -> None:
    """Its process ends, and another one begins."""
    keeper = keeper_of(address, keys, {})
    thread = threading.Thread(target=keeper.run)
    thread.start()
    wait_until(lambda: client.hget(keys.audit_chain, "keeper"), description="the keeper")
    client.set(keys.audit_lease, "another", px=60_000)
    client.hset(keys.audit_chain, "keeper", "another")
    write_events(client, keys, 1)
    thread.join(10)
    assert not thread.is_alive()
    assert head_of(client, keys) == START


def test_a_sink_that_fails_gets_the_same_again_and_stops_nobody(
    client: Client, keys: Keys, address: StoreAddress
) -> None:
    """Its records stay in Redis until it has them."""
    good, bad = Collector(), Collector()
    bad.failing = True
    keeper = keeper_of(address, keys, {"good": good, "bad": bad}, most=400)
    with kept(keeper):
        write_events(client, keys, 900)
        wait_until(lambda: len(good.got) == 900, description="the good one has all")
        wait_until(lambda: keeper.deliveries["bad"].standing.failing, description="the bad one fails")
        assert client.xlen(keys.audit) == 900
        bad.failing = False
        wait_until(lambda: len(bad.got) == 900, description="the bad one has all")
        wait_until(lambda: client.xlen(keys.audit) <= 250, description="what all have is trimmed")
    assert whole(bad).problems == []
    assert verify_redis(ChainStore(client, keys)).sound


def test_a_sink_that_hangs_stops_only_itself(client: Client, keys: Keys, address: StoreAddress) -> None:
    """What it has not got is kept, however much that is, and it is let go of at the end."""
    good, hung = Collector(), Collector()
    hung.holding.clear()
    with kept(keeper_of(address, keys, {"good": good, "hung": hung}, most=100)):
        write_events(client, keys, 6000)
        wait_until(lambda: len(good.got) == 6000, description="the good one has all")
        assert client.xlen(keys.audit) == 6000
    assert (good.closed, hung.closed) == (True, False)
    late = Collector()
    with kept(keeper_of(address, keys, {"good": good, "hung": late}, most=100)):
        wait_until(lambda: len(late.got) == 6000, description="another keeper brings it up to date")
    assert whole(late).problems == []
    hung.holding.set()


def test_without_sinks_the_oldest_go(client: Client, keys: Keys, address: StoreAddress) -> None:
    """The journal is bounded, and what is there is still proved by what was before it."""
    with kept(keeper_of(address, keys, {}, most=100)):
        write_events(client, keys, 1000)
        wait_until(lambda: client.xlen(keys.audit) <= 100, description="it is trimmed")
        assert client.xlen(keys.audit) >= 80
    found = verify_redis(ChainStore(client, keys))
    assert (found.sound, found.last) == (True, 1000)
    assert len(Journal(client, keys).newest(10)) == 10


def test_a_new_sink_gets_what_is_still_there(client: Client, keys: Keys, address: StoreAddress) -> None:
    """From the anchor on; its first record says what it follows."""
    with kept(keeper_of(address, keys, {}, most=100)):
        write_events(client, keys, 300)
        wait_until(lambda: 0 < client.xlen(keys.audit) <= 100, description="it is trimmed")
    anchor = ChainStore(client, keys).state().anchor
    sink = Collector()
    with kept(keeper_of(address, keys, {"new": sink}, most=100)):
        wait_until(lambda: sink.got and sink.got[-1].seq == 300, description="the rest")
    assert (sink.got[0].seq, sink.got[0].prev) == (anchor.seq + 1, anchor.hash)


class TestTampering:
    """What is done to the stream behind the keeper's back."""

    def test_a_record_taken_out_before_it_was_sealed_is_told(
        self, client: Client, keys: Keys, address: StoreAddress
    ) -> None:
        """Redis counts what it took."""
        with kept(keeper_of(address, keys, {})):
            write_events(client, keys, 3)
            wait_until(lambda: client.hget(keys.audit_chain, "added"), description="the first look")
        write_events(client, keys, 3, first=3)
        client.xdel(keys.audit, client.xrevrange(keys.audit, count=2)[1][0])
        with kept(keeper_of(address, keys, {})):
            wait_until(
                lambda: Journal(client, keys).newest(1)[0].kind == "journal_gap", description="the gap"
            )
        gap = Journal(client, keys).newest(1)[0]
        assert gap.fields["detail"] == "1 records"

    def test_a_sealed_record_that_is_taken_out_shows(
        self, client: Client, keys: Keys, address: StoreAddress
    ) -> None:
        """Sealed once more, the rest does not come out as it was; a sink that had not got it is told, and goes on."""
        sink = Collector()
        sink.failing = True
        keeper = keeper_of(address, keys, {"a": sink}, most=200)
        with kept(keeper):
            write_events(client, keys, 8000)
            wait_until(lambda: head_of(client, keys).seq >= 8000, description="all is sealed")
            client.xdel(keys.audit, client.xrange(keys.audit, count=50)[-1][0])
            found = verify_redis(ChainStore(client, keys))
            assert {problem.flaw for problem in found.problems} == {Flaw.EDITED, Flaw.MISSING}
            sink.failing = False
            wait_until(
                lambda: sink.got and sink.got[-1].event["kind"] == "journal_gap", description="the gap"
            )
        assert {problem.flaw for problem in whole(sink).problems} <= {Flaw.MISSING, Flaw.UNLINKED}
        assert whole(sink).found >= 1

    def test_a_journal_that_was_removed_is_told(
        self, client: Client, keys: Keys, address: StoreAddress
    ) -> None:
        """Begun anew it counts from nothing."""
        with kept(keeper_of(address, keys, {})):
            write_events(client, keys, 3)
            wait_until(lambda: client.hget(keys.audit_chain, "added"), description="the first look")
        client.delete(keys.audit)
        write_events(client, keys, 1)
        with kept(keeper_of(address, keys, {})):
            wait_until(
                lambda: Journal(client, keys).newest(1)[0].kind == "journal_gap", description="the gap"
            )
        assert head_of(client, keys).seq >= 4


def test_a_redis_that_forgot_goes_on_behind_what_a_sink_has(
    client: Client, keys: Keys, address: StoreAddress
) -> None:
    """A restart costs its last second; numbers are never given twice."""
    sink = Remembering()
    with kept(keeper_of(address, keys, {"a": sink})):
        write_events(client, keys, 10)
        wait_until(lambda: len(sink.got) == 10, description="all")
    client.flushdb()
    write_events(client, keys, 5, first=10)
    with kept(keeper_of(address, keys, {"a": sink})):
        wait_until(lambda: len(sink.got) == 16, description="the rest, and word of the gap")
    assert whole(sink).problems == []
    assert [record.event["kind"] for record in sink.got].count("journal_gap") == 1


def test_a_sink_whose_last_record_was_edited_is_not_believed(
    client: Client, keys: Keys, address: StoreAddress
) -> None:
    """Or whoever can write a file would move the chain."""
    sink = Remembering()
    sink.forged = True
    with kept(keeper_of(address, keys, {"a": sink}, key=b"k")):
        write_events(client, keys, 3)
        wait_until(lambda: len(sink.got) == 4, description="all")
    assert head_of(client, keys).seq == 3


class Remembering(Collector):
    """A sink that knows what it has."""

    forged = False

    @property
    def last(self) -> object:
        if self.forged and not self.got:
            from tests.common.audit.chains import records

            self.got = records(1, before=Position("1-0", 99, "a" * 64))
        return self.got[-1] if self.got else None


class Unclosable(Collector):
    """A sink whose disk fails at the last."""

    def close(self) -> None:
        super().close()
        raise OSError("not written back")
