"""node_beat, node_bury, lease_take, lease_release: who lives, who is buried, and who holds what."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.domain.ids import NodeId
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.support.wait import wait_until

NODE, OTHER = NodeId("celery@a:1"), NodeId("celery@b:2")
LEASE = "test:sweep"


def now_ms(client: Client) -> int:
    seconds, micros = client.time()
    return int(seconds * 1000 + micros // 1000)


def beat(client: Client, keys: Keys, node: NodeId, lease_ms: int = 8000) -> list[int]:
    answer: list[int] = run(client, "node_beat", [keys.nodes], [node, lease_ms])
    return answer


def bury(client: Client, keys: Keys, node: NodeId, *, force: bool = False) -> Any:
    return run(client, "node_bury", [keys.nodes, keys.unacked(node)], [node, int(force)])


def hold(client: Client, keys: Keys, node: NodeId, *messages: str) -> None:
    client.hset(keys.unacked(node), mapping={str(tag): message for tag, message in enumerate(messages)})
    client.expire(keys.unacked(node), 60)


def test_a_beat_begins_the_lease_anew(client: Client, keys: Keys) -> None:
    """By the clock of Redis, which it tells."""
    before = now_ms(client)
    known, now = beat(client, keys, NODE, 8000)
    assert known == 0
    assert 0 <= now - before < 1000
    assert client.zscore(keys.nodes, NODE) == now + 8000
    known, later = beat(client, keys, NODE, 8000)
    assert known == 1
    assert client.zscore(keys.nodes, NODE) == later + 8000


def test_the_living_are_not_buried(client: Client, keys: Keys) -> None:
    """Its messages stay its own."""
    beat(client, keys, NODE)
    hold(client, keys, NODE, "m")
    assert bury(client, keys, NODE) is None
    assert client.hvals(keys.unacked(NODE)) == [b"m"]
    assert client.zscore(keys.nodes, NODE) is not None


def test_the_dead_hand_over_what_they_had_begun(client: Client, keys: Keys) -> None:
    """Once; the second sweep finds nothing."""
    beat(client, keys, NODE, 0)
    hold(client, keys, NODE, "1", "2")
    assert sorted(bury(client, keys, NODE)) == [b"1", b"2"]
    assert bury(client, keys, NODE) == []
    assert client.exists(keys.unacked(NODE)) == 0
    assert client.zscore(keys.nodes, NODE) is None


def test_one_that_held_nothing_is_no_living_one(client: Client, keys: Keys) -> None:
    """An empty list and a refusal are told apart."""
    beat(client, keys, NODE, 0)
    beat(client, keys, OTHER)
    assert bury(client, keys, NODE) == []
    assert bury(client, keys, OTHER) is None


def test_one_that_says_goodbye_is_buried_at_once(client: Client, keys: Keys) -> None:
    """Though its lease runs."""
    beat(client, keys, NODE)
    hold(client, keys, NODE, "m")
    assert bury(client, keys, NODE, force=True) == [b"m"]


def test_one_that_was_buried_is_told_when_it_beats_again(client: Client, keys: Keys) -> None:
    """It was paused: what it had begun has been answered for it."""
    beat(client, keys, NODE, 0)
    bury(client, keys, NODE)
    assert beat(client, keys, NODE)[0] == 0


def test_a_dead_node_is_handed_to_one_sweeper(client: Client, keys: Keys) -> None:
    """Whoever else sweeps at the same moment gets nothing: no call is answered twice."""
    hold(client, keys, NODE, *map(str, range(50)))
    with ThreadPoolExecutor(8) as pool:
        handed = list(pool.map(lambda _: bury(client, keys, NODE), range(8)))
    assert sorted(map(len, handed)) == [0] * 7 + [50]


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
