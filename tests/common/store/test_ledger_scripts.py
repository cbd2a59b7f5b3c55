"""fetch and finish: a call is begun once, and ends once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from common.domain.ids import InvocationId, NodeId, ToolId
from common.domain.rules import Retry
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.common.store.delivery import (
    RESULT_MS,
    TOOL,
    A,
    B,
    admit,
    die,
    fetch,
    fetch_raw,
    finish,
    finish_all,
    ids,
    live,
    put,
    put_back,
    recorded,
    require_nothing_left,
    rescue,
    result,
    send_all,
    under_way,
    waiting,
)
from tests.support.messages import QUEUE, head, stamped

ODD = ['q"uote', "per%cent", "b|ar", "ümlaut 語", "sp ace", "a:b", "st*r", "back\\slash", "new\nline", "%41"]


@pytest.fixture
def full(raw: Redis) -> Iterator[None]:
    """Redis takes nothing that needs more memory while the block of this fixture's user runs."""
    yield
    raw.config_set("maxmemory", 0)


class TestBegun:
    """What is taken, by whom, and how often."""

    def test_an_id_is_begun_once(self, client: Client, keys: Keys) -> None:
        """While it is held, when it has its end, and when it was begun before Redis forgot."""
        live(client, keys, A)
        put(client, head("1"), head("1"))
        _, taken, dropped = fetch(client, keys, A)
        assert ([name for _, name, _, _ in taken], dropped) == (["1"], [b"1"])
        finish(client, keys, A, "1", head("1"))
        put(client, head("1"))
        client.set(keys.began(InvocationId("2")), "x", ex=60)
        put(client, head("2"))
        assert fetch(client, keys, A, tag=5)[1:] == ([], [b"1", b"2"])
        require_nothing_left(client, keys)

    def test_of_two_nodes_one_begins_it(self, client: Client, keys: Keys) -> None:
        """Sent by twenty, fetched by twenty at once."""
        nodes = [NodeId(f"n{n}") for n in range(20)]
        live(client, keys, *nodes)
        put(client, *(head("1", session=f"t:c{n}") for n in range(20)))
        with ThreadPoolExecutor(20) as pool:
            found = list(pool.map(lambda node: fetch(client, keys, node, most=3), nodes))
        assert sum(len(taken) for _, taken, _ in found) == 1
        assert sum(len(dropped) for _, _, dropped in found) == 19

    @pytest.mark.parametrize("why", ["lease", "tombstone", "unlisted"])
    def test_a_node_that_may_not_act_takes_nothing(self, client: Client, keys: Keys, why: str) -> None:
        """Its lease ended, it was declared dead, or it was never listed."""
        if why != "unlisted":
            live(client, keys, A, lease=0 if why == "lease" else 60_000)
        if why == "tombstone":
            die(client, keys, A)
        put(client, head("1"))
        assert fetch(client, keys, A) == (b"lapsed", [], [])
        assert client.llen(QUEUE) == 1

    def test_a_head_of_another_version_is_none(self, client: Client, keys: Keys) -> None:
        """Nothing is decided by it: that is for the worker to say. It stands in no count."""
        live(client, keys, A)
        client.lpush(QUEUE, stamped().replace(b'"1|', b'"2|'), stamped().replace(b"|unsent|", b"|uns3nt|"))
        assert fetch_raw(client, keys, A)[1][3::5] == [b"headless"] * 2
        assert client.exists(keys.calls(QUEUE)) == 0

    def test_what_is_beyond_max_in_flight_stays_until_a_place_is_given_back(
        self, client: Client, keys: Keys
    ) -> None:
        """Over all nodes; whoever gives it back calls out."""
        live(client, keys, A, B)
        put(client, *(head(str(n), session=f"t:c{n}") for n in range(5)))
        assert len(fetch(client, keys, A, cap=2, most=1)[1]) == 1
        assert len(fetch(client, keys, B, cap=2)[1]) == 1
        assert (fetch(client, keys, A, cap=2, tag=5)[1], client.llen(QUEUE)) == ([], 3)
        assert 0 < client.ttl(keys.held_back(QUEUE)) <= 60
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(keys.wake_channel)
            channel.get_message(timeout=1)
            finish(client, keys, A, "1", head("0", session="t:c0"))
            heard = channel.get_message(timeout=2)
        assert heard is not None
        assert heard["data"] == QUEUE.encode()
        assert len(fetch(client, keys, A, cap=2, tag=6)[1]) == 1

    def test_max_in_flight_is_exact_with_twenty_at_once(self, client: Client, keys: Keys) -> None:
        """Two rounds of it; what ends in between makes exactly so much room."""
        nodes = [NodeId(f"n{n}") for n in range(20)]
        live(client, keys, *nodes)
        put(client, *(head(str(n), session=f"t:c{n}") for n in range(60)))

        def begun(first: int) -> int:
            with ThreadPoolExecutor(20) as pool:
                found = pool.map(lambda node: fetch(client, keys, node, most=3, cap=7, tag=first), nodes)
                return sum(len(taken) for _, taken, _ in found)

        assert begun(1) == 7
        ended = 0
        for node in nodes:
            for tag in list(client.hkeys(keys.unacked(node)))[: 4 - ended]:
                finish(client, keys, node, tag.decode(), recorded(client, keys, node, tag.decode()))
                ended += 1
        assert (ended, begun(100)) == (4, 4)

    def test_a_direct_list_counts_for_the_same_bound(self, client: Client, keys: Keys) -> None:
        """Of a tool there are no more in flight than it may have, whichever way they come."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        admit(client, keys, head("2"))
        admit(client, keys, head("3", session="t:d"))
        assert len(fetch(client, keys, A, cap=2, direct=True, tag=2)[1]) == 1
        assert client.llen(QUEUE) + client.llen(keys.direct(A, QUEUE)) == 1
        client.delete(QUEUE, keys.direct(A, QUEUE))

    @pytest.mark.usefixtures("full")
    def test_a_redis_without_memory_is_drained(self, client: Client, keys: Keys, raw: Redis) -> None:
        """Nodes live on, take calls and end them, also beside a tool that is held back: that frees memory."""
        live(client, keys, A)
        put(client, head("1"), head("2"), head("3", queue="tool.b"))
        assert len(fetch(client, keys, A, cap=1)[1]) == 1
        raw.config_set("maxmemory", 1)
        live(client, keys, A)
        assert fetch(client, keys, A, cap=1, tag=2, others=("tool.b",))[1][0][1] == "3"
        assert finish(client, keys, A, "1", head("1")) == [[], []]
        assert put_back(client, keys, A, 2) == 1
        assert ids(waiting(client, "tool.b")) == ["3"]

    @pytest.mark.usefixtures("full")
    def test_a_redis_without_memory_is_swept(self, client: Client, keys: Keys, raw: Redis) -> None:
        """What the dead left is worked off as well."""
        live(client, keys, A)
        put(client, head("1"), head("2", leave=Retry.SAFE))
        fetch(client, keys, A)
        send_all(client, keys, A)
        raw.config_set("maxmemory", 1)
        assert run(client, "lease_take", [keys.sweep_lease], [B, 3000]) == 1
        die(client, keys, A)
        assert rescue(client, keys, A) == [1, 1, 1, 1, []]


class TestEnded:
    """finish: one end each."""

    def test_an_end_is_written_once(self, client: Client, keys: Keys) -> None:
        """A second one is refused; everything held is given back."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        assert under_way(client, keys) == {A: 1}
        assert finish(client, keys, A, "1", head("1"), "first") == [[], []]
        assert finish(client, keys, A, "1", head("1"), "second") == [[1], []]
        assert result(client, keys, "1") == b"first"
        assert 0 < client.pttl(keys.result(InvocationId("1"))) <= RESULT_MS
        require_nothing_left(client, keys)

    def test_a_whole_write_is_sent_twice(self, client: Client, keys: Keys) -> None:
        """The first answer was lost: what was written then is no refusal, and counts are given back once."""
        live(client, keys, A, B)
        put(client, *(head(str(n), session=f"t:c{n}") for n in range(4)))
        fetch(client, keys, A, most=3)
        fetch(client, keys, B, tag=9)
        ends = [(str(n + 1), head(str(n), session=f"t:c{n}"), f"r{n}") for n in range(3)]
        assert finish_all(client, keys, A, ends[:2]) == [[], []]
        assert finish_all(client, keys, A, [*ends, ("1", ends[0][1], "another")]) == [[4], []]
        assert under_way(client, keys) == {B: 1}
        assert [result(client, keys, str(n)) for n in range(3)] == [b"r0", b"r1", b"r2"]

    def test_an_end_sent_twice_is_told_as_the_first_time(self, client: Client, keys: Keys) -> None:
        """Its circuit wants to know, and the caller hears nothing twice; also if the node was declared dead since."""
        live(client, keys, A)
        put(client, head("1", reply="test:reply:x"))
        fetch(client, keys, A)
        client.hset(keys.circuit(TOOL), "state", "half_open")
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("test:reply:x")
            while not client.pubsub_channels():
                channel.get_message(timeout=1)
            for dies in (False, False, True):
                if dies:
                    die(client, keys, A)
                assert finish(client, keys, A, "1", head("1", reply="test:reply:x")) == [[], [b"tool.a"]]
            client.publish("test:reply:x", "end")
            heard: list[bytes] = []
            while heard[-1:] != [b"end"]:
                if message := channel.get_message(timeout=1):
                    heard.append(message["data"])
        assert heard == [b"f", b"end"]
        assert client.pttl(keys.result(InvocationId("1"))) <= RESULT_MS
        assert under_way(client, keys) == {}

    def test_each_is_told_where_it_waits(self, client: Client, keys: Keys) -> None:
        """On the reply channel its frame; on the result key's channel, for stock clients, the record."""
        live(client, keys, A)
        heads = [head("1", reply="test:reply:x"), head("2")]
        put(client, *heads)
        fetch(client, keys, A)
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("test:reply:x", keys.result(InvocationId("1")), keys.result(InvocationId("2")))
            while len(channel.channels) > len(client.pubsub_channels()):
                channel.get_message(timeout=1)
            finish_all(client, keys, A, [("1", heads[0], "r1"), ("2", heads[1], "r2")])
            client.publish("test:reply:x", "end")
            heard = []
            while not heard or heard[-1][1] != b"end":
                if message := channel.get_message(timeout=1):
                    heard.append((message["channel"], message["data"]))
        assert heard[:-1] == [(b"test:reply:x", b"f"), (keys.result(InvocationId("2")).encode(), b"r2")]

    def test_it_tells_which_circuits_want_to_know(self, client: Client, keys: Keys) -> None:
        """Those that are not wholly healthy, each once."""
        live(client, keys, A)
        heads = [head(str(n), queue="tool.a" if n < 2 else "tool.b") for n in range(3)]
        put(client, *heads)
        fetch(client, keys, A, others=("tool.b",))
        client.hset(keys.circuit(TOOL), "state", "half_open")
        client.hset(keys.circuit(ToolId("b")), "generation", 5)
        tags = {
            recorded(client, keys, A, tag.decode()).id: tag.decode() for tag in client.hkeys(keys.unacked(A))
        }
        ends = [(tags[one.id], one, "r") for one in heads]
        assert finish_all(client, keys, A, ends) == [[], [b"tool.a"]]

    def test_the_late_answer_of_a_dead_node_is_refused(self, client: Client, keys: Keys) -> None:
        """The rescue has answered; nothing of the late one is to be seen."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        send_all(client, keys, A)
        die(client, keys, A)
        assert rescue(client, keys, A)[:3] == [1, 0, 1]
        assert finish(client, keys, A, "1", head("1"), "late") == [[1], []]
        assert b"WORKER_LOST" in result(client, keys, "1")

    def test_a_late_answer_of_what_another_has_by_now_is_refused(self, client: Client, keys: Keys) -> None:
        """Without a result to be seen yet: the tombstone says so, and the new holder's record stays."""
        live(client, keys, A, B)
        put(client, head("1", leave=Retry.SAFE))
        fetch(client, keys, A)
        die(client, keys, A)
        rescue(client, keys, A)
        fetch(client, keys, B)
        assert finish(client, keys, A, "1", head("1"), "late") == [[1], []]
        assert result(client, keys, "1") == b""
        assert finish(client, keys, B, "1", head("1"), "good") == [[], []]
        assert result(client, keys, "1") == b"good"

    def test_an_answer_before_the_rescue_counts(self, client: Client, keys: Keys) -> None:
        """A node that is declared dead, and whose call nobody has touched yet: its end is an end."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        die(client, keys, A)
        assert finish(client, keys, A, "1", head("1"), "just in time") == [[], []]
        assert rescue(client, keys, A)[:3] == [1, 0, 0]
        assert result(client, keys, "1") == b"just in time"

    def test_of_answer_and_rescue_one_ends_the_call(self, client: Client, keys: Keys) -> None:
        """Forty calls, both at once, many times: each has one end, and nothing is given back twice."""
        live(client, keys, A, B)
        heads = [head(str(n), session=f"t:c{n}") for n in range(41)]
        put(client, *heads)
        fetch(client, keys, A, most=40)
        send_all(client, keys, A)
        fetch(client, keys, B, tag=1)
        die(client, keys, A)

        def answer(number: int) -> bool:
            return finish(client, keys, A, str(number), heads[number - 1], "answered")[0] == []

        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(answer, number) for number in range(1, 41)]
            rescues = [pool.submit(rescue, client, keys, A, 5) for _ in range(40)]
            answered = sum(future.result() for future in answers)
            lost = sum(future.result()[2] for future in rescues)
        assert answered + lost == 40
        found = [result(client, keys, str(n)) for n in range(40)]
        assert sum(one == b"answered" for one in found) == answered
        assert sum(b"WORKER_LOST" in one for one in found) == lost
        assert under_way(client, keys) == {B: 1}

    def test_an_answer_that_redis_forgot_to_expect_is_taken(self, client: Client, keys: Keys) -> None:
        """It came back empty: no record, no tombstone, no result. A second one is refused; no count goes below 0."""
        assert finish(client, keys, A, "1", head("1"), "first") == [[], []]
        assert finish(client, keys, A, "1", head("1"), "second") == [[1], []]
        require_nothing_left(client, keys)

    def test_a_cold_call_leaves_no_note(self, client: Client, keys: Keys) -> None:
        """Whether it was sent or not."""
        live(client, keys, A)
        put(client, head("1"), head("2"))
        fetch(client, keys, A)
        client.hset(keys.unsent(A), mapping={"1": 0, "2": 1})
        finish_all(client, keys, A, [("1", head("1"), "r"), ("2", head("2"), "r")], cold=True)
        require_nothing_left(client, keys)
        assert client.exists(keys.unsent(A)) == 0

    @pytest.mark.parametrize("call", ODD)
    def test_any_id_is_a_good_one(self, client: Client, keys: Keys, call: str) -> None:
        """Begun once, ended once, under its own name."""
        live(client, keys, A)
        put(client, head(call), head(call))
        assert fetch(client, keys, A)[2] == [call.encode()]
        assert client.hkeys(keys.calls(QUEUE)) == [call.encode()]
        assert finish(client, keys, A, "1", head(call)) == [[], []]
        assert result(client, keys, call) == b"r"
        client.delete(keys.result(InvocationId(call)))
        client.set(keys.began(InvocationId(call)), "x", ex=60)
        put(client, head(call))
        assert fetch(client, keys, A, tag=5)[1:] == ([], [call.encode()])
        require_nothing_left(client, keys, queue="tool.none")
