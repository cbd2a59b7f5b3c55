"""node_beat, node_fence, lease_take, lease_release: who lives, who is declared dead, and who holds what."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.domain.ids import NodeId
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from gateway_worker.sweep import GOODBYE, LEASE_ENDED, PROCESS_GONE, TOMBSTONE, fence_script
from tests.support.wait import wait_until

NODE = NodeId("celery@a:1")
LEASE = "test:sweep"


def now_ms(client: Client) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def beat(client: Client, keys: Keys, node: NodeId, lease_ms: int = 8000) -> list[Any]:
    answer: list[Any] = run(client, "node_beat", [keys.nodes, keys.fenced(node)], [node, lease_ms])
    return answer


def fence(client: Client, keys: Keys, node: NodeId, why: int = LEASE_ENDED) -> int:
    return int(run(client, "node_fence", *fence_script(keys, node, why, actor="tester")))


def test_a_beat_begins_the_lease_anew(client: Client, keys: Keys) -> None:
    """By the clock of Redis, which it tells."""
    before = now_ms(client)
    known, now = beat(client, keys, NODE, 8000)
    assert known == b"unknown"
    assert 0 <= now - before < 1000
    assert client.zscore(keys.nodes, NODE) == now + 8000
    known, later = beat(client, keys, NODE, 8000)
    assert known == b"known"
    assert client.zscore(keys.nodes, NODE) == later + 8000


def test_the_living_are_not_declared_dead(client: Client, keys: Keys) -> None:
    """Their lease runs; nothing is changed."""
    beat(client, keys, NODE)
    assert fence(client, keys, NODE) == 0
    assert client.exists(keys.fenced(NODE)) == 0
    assert beat(client, keys, NODE)[0] == b"known"


def test_a_node_whose_lease_ended_is_declared_dead_and_stays_so(client: Client, keys: Keys) -> None:
    """It stays listed for whoever works off what it left; it is audited once; it never comes back."""
    beat(client, keys, NODE, 0)
    assert [fence(client, keys, NODE), fence(client, keys, NODE)] == [1, 1]
    assert client.zscore(keys.nodes, NODE) == 0
    assert [fields[b"kind"] for _, fields in client.xrange(keys.audit)] == [b"node_lost"]
    assert beat(client, keys, NODE)[0] == b"fenced"
    assert client.zscore(keys.nodes, NODE) == 0
    assert 0 < client.ttl(keys.fenced(NODE)) <= TOMBSTONE


@pytest.mark.parametrize(("why", "audited"), [(GOODBYE, 0), (PROCESS_GONE, 1)])
def test_one_that_is_known_to_be_gone_is_declared_dead_at_once(
    client: Client, keys: Keys, why: int, audited: int
) -> None:
    """Though its lease runs; a goodbye is no loss."""
    beat(client, keys, NODE)
    assert fence(client, keys, NODE, why) == 1
    assert client.xlen(keys.audit) == audited


def test_who_beats_and_who_declares_dead_at_once_agree(client: Client, keys: Keys) -> None:
    """Eight of each: either it lives for all of them, or it is dead for all of them."""
    beat(client, keys, NODE, 0)
    with ThreadPoolExecutor(16) as pool:
        fences = [pool.submit(fence, client, keys, NODE) for _ in range(8)]
        beats = [pool.submit(beat, client, keys, NODE) for _ in range(8)]
        dead = [future.result() for future in fences]
        told = [future.result()[0] for future in beats]
    final = beat(client, keys, NODE)[0]
    assert (final == b"fenced") == (1 in dead)
    assert (b"fenced" in told) <= (final == b"fenced")


def test_a_lease_has_one_holder(client: Client) -> None:
    """Who comes second waits; the holder renews."""
    assert run(client, "lease_take", [LEASE], ["a", 10_000]) == 1
    assert run(client, "lease_take", [LEASE], ["b", 10_000]) == 0
    client.pexpire(LEASE, 1000)
    assert run(client, "lease_take", [LEASE], ["a", 10_000]) == 1
    assert client.get(LEASE) == b"a"
    assert client.pttl(LEASE) > 5000


def test_of_many_one_takes_the_lease(client: Client) -> None:
    """At the same moment."""
    with ThreadPoolExecutor(20) as pool:
        taken = list(pool.map(lambda n: run(client, "lease_take", [LEASE], [f"n{n}", 10_000]), range(20)))
    assert sum(taken) == 1


def test_a_lease_runs_out_by_itself(client: Client) -> None:
    """Its holder died."""
    run(client, "lease_take", [LEASE], ["a", 20])
    wait_until(lambda: run(client, "lease_take", [LEASE], ["b", 10_000]), description="the lease is free")
    assert client.get(LEASE) == b"b"


def test_only_the_holder_gives_a_lease_back(client: Client) -> None:
    """One who was too slow does not take it from the next."""
    run(client, "lease_take", [LEASE], ["b", 10_000])
    assert run(client, "lease_release", [LEASE], ["a"]) == 0
    assert client.get(LEASE) == b"b"
    assert run(client, "lease_release", [LEASE], ["b"]) == 1
    assert run(client, "lease_release", [LEASE], ["b"]) == 0
