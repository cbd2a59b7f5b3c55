"""call_return, call_adopt, direct_return, dead_letter: what does not run here gives back what it held."""

from __future__ import annotations

from common.calls.dead_letters import dead_letter_command
from common.domain.ids import InvocationId, NodeId
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.common.store.delivery import (
    TOOL,
    A,
    B,
    admit,
    adopt,
    die,
    drop,
    fetch,
    fetch_raw,
    ids,
    live,
    put,
    put_back,
    recorded,
    require_nothing_left,
    return_direct,
    under_way,
    waiting,
)
from tests.support.messages import QUEUE, head, stamped

C = NodeId("celery@c:3")


class TestPutBack:
    """call_return, call_adopt, direct_return."""

    def test_a_call_goes_back_by_itself(self, client: Client, keys: Keys) -> None:
        """In front, with nothing held any more; once. It may be begun again, by the same node as well."""
        live(client, keys, A)
        put(client, head("1"), head("2"))
        fetch(client, keys, A, most=1)
        client.hset(keys.unsent(A), "1", 1)
        client.set(keys.began(InvocationId("1")), A, ex=60)
        assert [put_back(client, keys, A, 1) for _ in range(2)] == [1, 0]
        assert ids(waiting(client)) == ["1", "2"]
        assert waiting(client)[0].attempt == 0
        require_nothing_left(client, keys)
        assert client.exists(keys.unsent(A)) == 0
        assert [name for _, name, _, _ in fetch(client, keys, A, tag=5)[1]] == ["1", "2"]

    def test_what_another_has_begun_meanwhile_does_not_go_back(self, client: Client, keys: Keys) -> None:
        """It is that one's to answer; what it held here is given back."""
        live(client, keys, A)
        put(client, head("1"))
        fetch(client, keys, A)
        client.set(keys.began(InvocationId("1")), B, ex=60)
        assert put_back(client, keys, A, 1) == 0
        require_nothing_left(client, keys)
        assert client.exists(QUEUE, keys.unacked(A)) == 0
        assert client.get(keys.began(InvocationId("1"))) == B.encode()

    def test_what_is_put_back_keeps_all_its_bytes(self, client: Client, keys: Keys) -> None:
        """Stamp, circuit's generation and body; of the head nothing but the pool's choice."""
        live(client, keys, A)
        of = head("ü|", session="*", pool_size=1, max_sessions=5, tenant_max_sessions=6, reply="r")
        message = stamped(of, at=7, circuit=8, body='"canalgate":"1|' + "x" * 50)
        client.lpush(QUEUE, message)
        fetch(client, keys, A)
        assert recorded(client, keys, A, 1) == of._replace(session="*0")
        put_back(client, keys, A, 1)
        assert client.lrange(QUEUE, 0, -1) == [message]

    def test_what_gets_no_end_here_holds_nothing_either(self, client: Client, keys: Keys) -> None:
        """With a head or without, of a pool as well; once."""
        live(client, keys, A)
        put(client, head("1"), head("2", session="*", pool_size=1))
        client.lpush(QUEUE, "stock")
        fetch_raw(client, keys, A)
        client.hset(keys.unsent(A), "1", 1)
        assert [drop(client, keys, A, tag) for tag in (1, 1, 2, 3)] == [1, 0, 1, 1]
        require_nothing_left(client, keys)
        assert client.exists(keys.unacked(A), keys.unsent(A), QUEUE) == 0

    def test_workers_are_called_when_the_queue_was_empty(self, client: Client, keys: Keys) -> None:
        """And only then."""
        live(client, keys, A)
        put(client, head("1"), head("2"))
        fetch(client, keys, A)
        with client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(keys.wake_channel)
            channel.get_message(timeout=1)
            put_back(client, keys, A, 2)
            put_back(client, keys, A, 1)
            client.publish(keys.wake_channel, "end")
            heard = []
            while not heard or heard[-1] != b"end":
                if message := channel.get_message(timeout=1):
                    heard.append(message["data"])
        assert heard == [QUEUE.encode(), b"end"]

    def test_a_message_gets_its_head_and_is_taken_as_any_other(self, client: Client, keys: Keys) -> None:
        """In front of its queue, stamped; sent twice it is one message."""
        live(client, keys, A)
        client.lpush(QUEUE, "stock")
        put(client, head("2", session="t:d"))
        fetch_raw(client, keys, A, most=1)
        assert adopt(client, keys, A, 1, head("1")) == [b"adopted"]
        assert adopt(client, keys, A, 1, head("1")) == [b"gone"]
        assert ids(waiting(client)) == ["1", "2"]
        assert [verdict for _, _, verdict, _ in fetch(client, keys, A, tag=5)[1]] == [b"claimed"] * 2

    def test_one_that_may_not_run_stays_recorded(self, client: Client, keys: Keys) -> None:
        """Draining without a session that lives, a pool among them; and an open circuit."""
        live(client, keys, A)
        put(client, head("0"))
        fetch(client, keys, A)
        client.lpush(QUEUE, "stock")
        fetch_raw(client, keys, A, tag=7)
        for refused in (head("1", session="t:new"), head("1", session="*", pool_size=1)):
            assert adopt(client, keys, A, 7, refused, may_create=False)[0] == b"draining"
        client.hset(keys.circuit(TOOL), mapping={"state": "open", "generation": 3})
        assert adopt(client, keys, A, 7, head("1"))[::2] == [b"open", -1]
        assert client.hget(keys.unacked(A), "7") == b"stock"
        assert client.llen(QUEUE) == 0
        client.delete(keys.circuit(TOOL))
        assert adopt(client, keys, A, 7, head("1"), may_create=False) == [b"adopted"]

    def test_one_of_a_half_open_circuit_needs_a_permit(self, client: Client, keys: Keys) -> None:
        """It carries the circuit's generation; a second has to wait."""
        live(client, keys, A)
        client.lpush(QUEUE, "stock1", "stock2")
        fetch_raw(client, keys, A)
        client.hset(keys.circuit(TOOL), mapping={"state": "half_open", "generation": 3})
        assert adopt(client, keys, A, 1, head("1")) == [b"adopted"]
        assert adopt(client, keys, A, 2, head("2"))[0] == b"probes_taken"
        assert (client.lindex(QUEUE, 0) or b"").partition(b'"circuit":')[2].startswith(b"3,")

    def test_one_that_tries_an_open_circuit_is_in_the_audit(self, client: Client, keys: Keys) -> None:
        """As with any other call that is let through first."""
        live(client, keys, A)
        client.lpush(QUEUE, "stock")
        fetch_raw(client, keys, A)
        client.hset(keys.circuit(TOOL), mapping={"state": "open", "generation": 3, "until": 1})
        assert adopt(client, keys, A, 1, head("1")) == [b"adopted"]
        ((_, event),) = client.xrange(keys.audit)
        assert event[b"kind"] == b"circuit_state_change"
        assert (event[b"tool"], event[b"detail"]) == (b"a", b"open -> half_open")

    def test_a_direct_list_goes_back_in_its_order(self, client: Client, keys: Keys) -> None:
        """In front of what waits in the queue, in steps as well."""
        live(client, keys, A)
        put(client, head("0"))
        fetch(client, keys, A)
        for name in "12345":
            admit(client, keys, head(name))
        put(client, head("9", session="t:d"))
        assert return_direct(client, keys, A, 2) == 2
        assert client.llen(keys.direct(A, QUEUE)) == 3
        assert [return_direct(client, keys, A, 2) for _ in range(3)] == [2, 1, 0]
        assert ids(waiting(client)) == [*"12345", "9"]


class TestTakeOver:
    """record_take."""

    def take(self, client: Client, keys: Keys, node: NodeId, tag: int = 1) -> int:
        """Take over what A holds."""
        named = [keys.unacked(A), keys.unacked(node)]
        return int(run(client, "record_take", named, [keys.begin, node, tag, 50]))

    def test_one_of_two_gets_it(self, client: Client, keys: Keys) -> None:
        """It is recorded with whoever came first, and never nowhere."""
        live(client, keys, A, B, C)
        client.lpush(QUEUE, "stock")
        fetch_raw(client, keys, A)
        die(client, keys, A)
        assert [self.take(client, keys, node) for node in (B, C)] == [1, 0]
        assert client.hgetall(keys.unacked(B)) == {b"50": b"stock"}
        assert client.exists(keys.unacked(A), keys.unacked(C)) == 0

    def test_a_dead_node_gets_nothing(self, client: Client, keys: Keys) -> None:
        """What it left may be worked off already."""
        live(client, keys, A, B)
        client.lpush(QUEUE, "stock")
        fetch_raw(client, keys, A)
        die(client, keys, B)
        assert self.take(client, keys, B) == 0
        assert client.hgetall(keys.unacked(A)) == {b"1": b"stock"}


class TestDeadLetter:
    """dead_letter: what cannot be run gives back what it held."""

    def letter(self, client: Client, keys: Keys, tag: str) -> None:
        """Make one, as the worker does."""
        client.execute_command(*dead_letter_command(keys, A, {"reason": "bad_body"}, tag=tag))

    def test_a_message_with_a_head_holds_nothing_any_more(self, client: Client, keys: Keys) -> None:
        """Its place in the ledger, in flight, in its pool, and its permit; once, however often it is sent."""
        live(client, keys, A)
        put(client, *(head(str(n), session="*", pool_size=1) for n in range(2)))
        fetch(client, keys, A, cap=2)
        fetch(client, keys, A, cap=2, tag=5)
        client.zadd(keys.circuit_permits(TOOL), {"0": 9e12, "x": 9e12})
        client.hset(keys.unsent(A), "1", 1)
        for _ in range(2):
            self.letter(client, keys, "1")
        assert under_way(client, keys) == {A: 1}
        assert client.hgetall(keys.session_calls(TOOL)) == {b"*0": b"1"}
        assert client.hkeys(keys.calls(QUEUE)) == [b"1"]
        assert client.zrange(keys.circuit_permits(TOOL), 0, -1) == [b"x"]
        self.letter(client, keys, "2")
        require_nothing_left(client, keys)
        assert client.exists(keys.unsent(A)) == 0
        assert client.xlen(keys.dead_letters) == 2

    def test_a_place_in_flight_is_called_out(self, client: Client, keys: Keys) -> None:
        """What was held back for it comes up."""
        live(client, keys, A)
        put(client, head("1"), head("2"))
        fetch(client, keys, A, cap=1)
        fetch(client, keys, A, cap=1, tag=2)
        assert client.exists(keys.held_back(QUEUE)) == 1
        self.letter(client, keys, "1")
        assert client.exists(keys.held_back(QUEUE)) == 0
        assert len(fetch(client, keys, A, cap=1, tag=3)[1]) == 1

    def test_one_without_a_head_held_nothing(self, client: Client, keys: Keys) -> None:
        """No count goes below zero, nor is another's taken."""
        live(client, keys, A)
        put(client, head("1"))
        client.lpush(QUEUE, "poison", "x" * 2000)
        fetch_raw(client, keys, A)
        for tag in ("2", "3"):
            self.letter(client, keys, tag)
        assert under_way(client, keys) == {A: 1}
        assert client.hkeys(keys.calls(QUEUE)) == [b"1"]
