"""fetch: no message is lost, no queue is starved, nobody takes more than he can start."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from common.domain.ids import NodeId, decode_part
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run

PREFIX, DRAIN = "test:", "test:drain:"
NODE = NodeId("celery@a:1")
KEPT = 10


def enqueue(client: Client, queue: str, *messages: str) -> list[int]:
    """As a stock producer does; the length of the queue after each."""
    return [client.lpush(queue, message) for message in messages]


def fetch(
    client: Client, unacked: str, queues: list[str], most: int, tag: int = 1, largest: int = 1000
) -> list[tuple[str, int, str]]:
    """What came: queue, tag, message."""
    return fetch_all(client, unacked, queues, most, tag, largest)[0]


def fetch_all(
    client: Client, unacked: str, queues: list[str], most: int, tag: int = 1, largest: int = 1000
) -> tuple[list[tuple[str, int, str]], list[str], list[str]]:
    """What came; the queues that may hold more; those that are none."""
    status, flat, more, unusable, dropped = fetch_raw(client, unacked, queues, most, tag, largest)
    assert (status, dropped) == (b"taken", [])
    taken = [
        (queues[index - 1], int(number), message.decode())
        for index, number, message, verdict, token in zip(*[iter(flat)] * 5, strict=True)
        if (verdict, token) == (b"headless", b"0")
    ]
    assert len(taken) * 5 == len(flat)
    return taken, [queues[index - 1] for index in more], [queues[index - 1] for index in unusable]


def fetch_raw(
    client: Client, unacked: str, queues: list[str], most: int, tag: int = 1, largest: int = 1000
) -> list[Any]:
    """The answer as it is; the node is the one whose hash it is."""
    node = decode_part(unacked.removeprefix("test:unacked:"))
    named = [part for queue in queues for part in (queue, 0)]
    args = [most, tag, largest, KEPT, PREFIX, node, *named]
    answer: list[Any] = run(client, "fetch", [unacked, *queues], args)
    return answer


def live(client: Client, keys: Keys, node: NodeId = NODE) -> str:
    """Let a node live; the key of its hash."""
    run(client, "node_beat", [keys.nodes, keys.fenced(node)], [node, 60_000])
    return keys.unacked(node)


@pytest.fixture
def unacked(client: Client, keys: Keys) -> str:
    """Of a node that lives."""
    return live(client, keys)


def test_first_in_first_out(client: Client, unacked: str) -> None:
    """A queue keeps its order, and so do the delivery tags."""
    assert enqueue(client, "tool.a", "1", "2", "3") == [1, 2, 3]
    assert fetch(client, unacked, ["tool.a"], 10, tag=7) == [
        ("tool.a", 7, "1"),
        ("tool.a", 8, "2"),
        ("tool.a", 9, "3"),
    ]


def test_what_is_taken_is_recorded_in_the_same_step(client: Client, unacked: str) -> None:
    """Each message is either in its queue or in the node's hash."""
    enqueue(client, "tool.a", "1", "2")
    fetch(client, unacked, ["tool.a"], 1, tag=5)
    assert client.hgetall(unacked) == {b"5": b"1"}
    assert client.lrange("tool.a", 0, -1) == [b"2"]


@pytest.mark.parametrize("most", [1, 2, 5, 6, 7, 100])
def test_no_more_is_taken_than_wanted(client: Client, unacked: str, most: int) -> None:
    """What this worker cannot start stays for others."""
    for queue in ("tool.a", "tool.b", "tool.c"):
        enqueue(client, queue, "1", "2")
    taken = fetch(client, unacked, ["tool.a", "tool.b", "tool.c"], most)
    left = sum(client.llen(queue) for queue in ("tool.a", "tool.b", "tool.c"))
    assert (len(taken), left, client.hlen(unacked)) == (min(most, 6), 6 - min(most, 6), min(most, 6))


def test_a_busy_queue_does_not_hold_up_the_others(client: Client, unacked: str) -> None:
    """One message a queue and a pass."""
    enqueue(client, "tool.busy", *map(str, range(100)))
    enqueue(client, "tool.quiet", "q")
    enqueue(client, "tool.other", "o1", "o2")
    taken = fetch(client, unacked, ["tool.busy", "tool.quiet", "tool.other"], 6)
    assert [(queue, message) for queue, _, message in taken] == [
        ("tool.busy", "0"),
        ("tool.quiet", "q"),
        ("tool.other", "o1"),
        ("tool.busy", "1"),
        ("tool.other", "o2"),
        ("tool.busy", "2"),
    ]


def test_it_tells_which_queues_may_hold_more(client: Client, unacked: str) -> None:
    """Not those seen empty; those that were not reached stand before those that were served."""
    queues = ["tool.a", "tool.empty", "tool.b", "tool.c", "tool.d"]
    for queue in ("tool.a", "tool.b", "tool.c", "tool.d"):
        enqueue(client, queue, "1", "2")
    taken, more, _ = fetch_all(client, unacked, queues, 2)
    assert [queue for queue, _, _ in taken] == ["tool.a", "tool.b"]
    assert more == ["tool.c", "tool.d", "tool.a", "tool.b"]
    taken, more, _ = fetch_all(client, unacked, queues, 5, tag=10)
    assert [queue for queue, _, _ in taken] == ["tool.a", "tool.b", "tool.c", "tool.d", "tool.c"]
    assert more == ["tool.d", "tool.c"]
    taken, more, _ = fetch_all(client, unacked, queues, 5, tag=20)
    assert [queue for queue, _, _ in taken] == ["tool.d"]
    assert more == []


def test_a_queue_that_is_no_list_is_left_out_and_named(client: Client, unacked: str) -> None:
    """Whatever somebody put under its name: the others are served and recorded all the same."""
    enqueue(client, "tool.a", "1", "2")
    enqueue(client, "tool.z", "3")
    client.set("tool.bad", "no list", ex=60)
    taken, more, unusable = fetch_all(client, unacked, ["tool.a", "tool.bad", "tool.z"], 10)
    assert [message for _, _, message in taken] == ["1", "3", "2"]
    assert (more, unusable) == ([], ["tool.bad"])
    assert client.hvals(unacked) == [b"1", b"3", b"2"]


def test_nothing_there_is_nothing_recorded(client: Client, unacked: str) -> None:
    """Empty queues, no room, no queues: an empty answer and no key."""
    assert fetch(client, unacked, ["tool.a", "tool.b"], 5) == []
    enqueue(client, "tool.a", "1")
    assert fetch(client, unacked, ["tool.a"], 0) == []
    assert fetch(client, unacked, [], 5) == []
    assert client.exists(unacked) == 0


def test_large_tags_stay_exact(client: Client, unacked: str) -> None:
    """A worker that runs for years does not get ``1e+15`` for a tag."""
    enqueue(client, "tool.a", "1")
    assert fetch(client, unacked, ["tool.a"], 1, tag=2**53 - 2) == [("tool.a", 2**53 - 2, "1")]
    assert client.hkeys(unacked) == [str(2**53 - 2).encode()]


def test_of_many_workers_each_message_goes_to_one(client: Client, keys: Keys) -> None:
    """8 nodes fetch from the same 3 queues while they are filled: 300 messages, none twice, none lost."""
    queues = ["tool.a", "tool.b", "tool.c"]
    total = 300
    tags = count(1)

    def fill(queue: str) -> None:
        for number in range(total // 3):
            enqueue(client, queue, f"{queue}:{number}")

    def take(node: int) -> list[str]:
        mine: list[str] = []
        unacked = live(client, keys, NodeId(f"n{node}"))
        while client.get("test:done") is None or any(client.llen(queue) for queue in queues):
            for _, _, message in fetch(client, unacked, queues, 4, tag=next(tags) * 10):
                mine.append(message)
        assert client.hlen(unacked) == len(mine)
        return mine

    with ThreadPoolExecutor(11) as pool:
        takers = [pool.submit(take, node) for node in range(8)]
        for filler in [pool.submit(fill, queue) for queue in queues]:
            filler.result()
        client.set("test:done", 1, ex=60)
        taken = [message for taker in takers for message in taker.result()]
    assert len(taken) == len(set(taken)) == total


def test_a_message_above_the_bound_is_cut_as_it_is_taken(client: Client, unacked: str) -> None:
    """Size and SHA-1, then its beginning and its end; what is exactly as large as allowed stays whole."""
    large = "begin" + "x" * 100 + "end.."
    enqueue(client, "tool.a", large, "y" * 50)
    raw = fetch_raw(client, unacked, ["tool.a"], 5, largest=50)[1]
    digest = hashlib.sha1(large.encode(), usedforsecurity=False).hexdigest().encode()
    cut = b"\xffoversized %d %b\nbeginend.." % (len(large), digest)
    assert raw[2::5] == [cut, b"y" * 50]
    assert client.hgetall(unacked) == {b"1": cut, b"2": b"y" * 50}


def test_what_is_taken_from_a_queue_is_counted(client: Client, unacked: str) -> None:
    """In spans of ten seconds, by queue, and since when; gone after a minute."""
    enqueue(client, "tool.a", *"abcdefghij")
    enqueue(client, "tool.b", "1")
    fetch(client, unacked, ["tool.a", "tool.b"], 20)
    enqueue(client, "tool.a", "k")
    fetch(client, unacked, ["tool.a"], 20, tag=50)
    counted = {queue: client.hgetall(DRAIN + queue) for queue in ("tool.a", "tool.b")}
    since = {queue: int(spans.pop(b"since")) for queue, spans in counted.items()}
    assert sum(map(int, counted["tool.a"].values())) == 11
    assert sum(map(int, counted["tool.b"].values())) == 1
    seconds, _ = client.time()
    for queue in ("tool.a", "tool.b"):
        assert -1 < seconds - since[queue] / 1000 < 60
        assert int(next(iter(counted[queue]))) == since[queue] // 10_000
        assert 0 < client.ttl(DRAIN + queue) <= 60


def test_a_span_that_is_long_over_is_forgotten(client: Client, unacked: str) -> None:
    """Who reads a rate looks at this span and the last; since when it is measured stays."""
    seconds, _ = client.time()
    span = seconds // 10
    client.hset(DRAIN + "tool.a", mapping={"since": 7, str(span - 2): 5, str(span - 1): 6})
    enqueue(client, "tool.a", "1")
    fetch(client, unacked, ["tool.a"], 20)
    counted = client.hgetall(DRAIN + "tool.a")
    assert counted.pop(b"since") == b"7"
    assert str(span - 2).encode() not in counted
    assert list(counted.values()) == [b"6", b"1"]


def test_nothing_taken_changes_no_rate(client: Client, unacked: str) -> None:
    """An idle worker that looks into an empty queue writes nothing."""
    fetch(client, unacked, ["tool.a"], 20)
    assert client.keys() == [b"test:nodes"]
