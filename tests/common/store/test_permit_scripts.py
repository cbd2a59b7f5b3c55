"""Permits of calls at a time: taken at the admission, and given back on whichever way a call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from common.calls.dead_letters import dead_letter_command
from common.calls.head import Head
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId
from common.domain.rules import Retry
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.common.store.delivery import A, B, die, fetch, finish, live, recorded, rescue_all, send_all
from tests.support.messages import QUEUE, head, stamped, unstamped

T, C = TenantId("t"), ClientId("c")


def counted(call: str = "i", *, most: int = 2, client_most: int = 1, ms: int = 60_000, **parts: Any) -> Head:
    """A call that counts for the tenant and the client, for so many ms; its head says until when."""
    return head(call, permits=f"{counted.now + ms}:{most}:{client_most}:t:c", **parts)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _now(client: Client) -> None:
    seconds, micros = client.time()
    counted.now = seconds * 1000 + micros // 1000  # type: ignore[attr-defined]


def admit(client: Client, keys: Keys, of: Head, *rates: str | int, most: int = 0, may_create: int = 1) -> Any:
    """The script's answer."""
    args = [unstamped(of), keys.begin, most, 0, may_create, 1, 100, "", "", *rates]
    return run(client, "admit", [QUEUE, keys.drain(QUEUE), keys.head(QUEUE)], args)


def adopt(client: Client, keys: Keys, of: Head, *rates: str | int) -> Any:
    """The same for a stock producer's message that the node A holds."""
    client.hset(keys.unacked(A), "9", "without a head")
    args = ["9", unstamped(of), keys.begin, 1, 1, 100, *rates]
    return run(client, "call_adopt", [keys.unacked(A), QUEUE], args)


def under_way(client: Client, keys: Keys) -> tuple[int, int]:
    """Calls of the tenant, and of the client."""
    return client.zcard(keys.tenant_calls(T)), client.zcard(keys.client_calls(T, C))


ENTRIES = pytest.mark.parametrize("enter", [admit, adopt])


@ENTRIES
def test_calls_beyond_the_bound_are_refused_until_one_ends(
    enter: Callable[..., Any], client: Client, keys: Keys
) -> None:
    """The tenant's and the client's count each for itself."""
    live(client, keys, A)
    assert enter(client, keys, counted("1"))[0] in (b"admitted", b"adopted")
    kind, _, whose = enter(client, keys, counted("2"))
    assert (kind, whose) == (b"calls_at_bound", b"client")
    kind, _, whose = enter(client, keys, counted("2", most=1, client_most=0))
    assert (kind, whose) == (b"calls_at_bound", b"tenant")
    assert under_way(client, keys) == (1, 1)
    client.hdel(keys.unacked(A), "9")
    fetch(client, keys, A)
    finish(client, keys, A, "1", recorded(client, keys, A, 1))
    assert under_way(client, keys) == (0, 0)
    assert enter(client, keys, counted("2"))[0] in (b"admitted", b"adopted")
    die(client, keys, A)
    rescue_all(client, keys, A)


@ENTRIES
def test_a_call_that_is_refused_for_its_rate_takes_nothing(
    enter: Callable[..., Any], client: Client, keys: Keys
) -> None:
    """Neither a permit nor a place in another bucket."""
    full, other = keys.tenant_rate(T), keys.client_rate(T, C)
    assert enter(client, keys, head("1"), full, 1, 1)[0] in (b"admitted", b"adopted")
    kind, _, which, wait = enter(client, keys, counted("2"), other, 60, 5, full, 1, 1)
    assert (kind, which) == (b"rate", 2)
    assert 59_000_000 < wait <= 60_000_000
    assert under_way(client, keys) == (0, 0)
    assert client.exists(other) == 0
    assert client.llen(QUEUE) == 1


@pytest.mark.parametrize("refusal", ["queue", "drain", "circuit"])
def test_a_call_that_is_refused_otherwise_takes_nothing(refusal: str, client: Client, keys: Keys) -> None:
    """Whichever check says no: no permit is held, and no bucket filled."""
    bounds = {"queue": {"most": 1}, "drain": {"may_create": 0}, "circuit": {}}[refusal]
    client.lpush(QUEUE, stamped(head("0")))
    if refusal == "circuit":
        client.hset(keys.circuit(ToolId("a")), mapping={"state": "open", "generation": 1})
    answer = admit(client, keys, counted("1"), keys.tenant_rate(T), 60, 5, **bounds)
    assert answer[0] in (b"queue_full", b"draining", b"open")
    assert under_way(client, keys) == (0, 0)
    assert client.exists(keys.tenant_rate(T)) == 0


@ENTRIES
def test_a_call_that_is_admitted_again_counts_once(
    enter: Callable[..., Any], client: Client, keys: Keys
) -> None:
    """Under the same id."""
    for _ in range(2):
        assert enter(client, keys, counted("1", most=1))[0] in (b"admitted", b"adopted")
    assert under_way(client, keys) == (1, 1)


def test_a_permit_ends_by_itself(client: Client, keys: Keys) -> None:
    """One whose time has passed does not count, and is gone with the next."""
    assert admit(client, keys, counted("1", ms=-1))[0] == b"admitted"
    assert admit(client, keys, counted("2"))[0] == b"admitted"
    assert under_way(client, keys) == (1, 1)
    assert 0 < client.pttl(keys.tenant_calls(T)) <= 180_000


class TestWaysToEnd:
    """What else ends a call, and what only moves it."""

    @pytest.fixture(autouse=True)
    def taken(self, client: Client, keys: Keys) -> None:
        """A call that the node A has taken and sent."""
        live(client, keys, A, B)
        admit(client, keys, counted("1"))
        fetch(client, keys, A)
        send_all(client, keys, A)
        assert under_way(client, keys) == (1, 1)

    def test_a_dead_node_s_call_is_answered(self, client: Client, keys: Keys) -> None:
        """WORKER_LOST, in the step that answers it."""
        die(client, keys, A)
        rescue_all(client, keys, A)
        assert under_way(client, keys) == (0, 0)

    def test_a_dead_node_s_call_that_has_its_end_already(self, client: Client, keys: Keys) -> None:
        """Redis was restarted, and remembers the record alone."""
        client.set(keys.result(InvocationId("1")), "good", ex=60)
        die(client, keys, A)
        rescue_all(client, keys, A)
        assert under_way(client, keys) == (0, 0)

    def test_a_call_that_goes_back_to_its_queue_keeps_its_permit(self, client: Client, keys: Keys) -> None:
        """Its worker died before it sent anything; the head goes with it, so its end gives the permit back."""
        client.hset(keys.unsent(A), "1", 1)
        die(client, keys, A)
        rescue_all(client, keys, A)
        assert under_way(client, keys) == (1, 1)
        fetch(client, keys, B, tag=5)
        finish(client, keys, B, "5", recorded(client, keys, B, 5))
        assert under_way(client, keys) == (0, 0)

    def test_a_call_that_its_node_puts_back_keeps_its_permit(self, client: Client, keys: Keys) -> None:
        """As it still is under way."""
        run(client, "call_return", [keys.unacked(A)], [keys.begin, A, "1"])
        assert under_way(client, keys) == (1, 1)

    def test_a_late_end_gives_nothing_back(self, client: Client, keys: Keys) -> None:
        """Its call went back, and another has it."""
        client.hset(keys.unsent(A), "1", 1)
        of = recorded(client, keys, A, 1)
        die(client, keys, A)
        rescue_all(client, keys, A)
        assert finish(client, keys, A, "1", of)[0] == [1]
        assert under_way(client, keys) == (1, 1)

    def test_a_dead_letter(self, client: Client, keys: Keys) -> None:
        """Nobody can run it."""
        client.execute_command(*dead_letter_command(keys, A, {"reason": "bad_body"}, tag="1"))
        assert under_way(client, keys) == (0, 0)

    @pytest.mark.parametrize("declared", [False, True])
    def test_a_stray_that_ended_gives_it_back_and_one_that_another_runs_does_not(
        self, declared: bool, client: Client, keys: Keys
    ) -> None:
        """After a restart of Redis."""
        key = keys.began(InvocationId("1")) if declared else keys.result(InvocationId("1"))
        client.set(key, B, ex=60)
        assert run(client, "call_stray", [keys.unacked(A)], [keys.begin, A, "1", 1, 3]) == b"ended"
        assert under_way(client, keys) == ((1, 1) if declared else (0, 0))

    def test_a_second_message_of_a_call_that_runs_leaves_it_its_permit(
        self, client: Client, keys: Keys
    ) -> None:
        """It is dropped where it is taken."""
        client.lpush(QUEUE, stamped(counted("1")))
        assert fetch(client, keys, A, tag=2)[2] == [b"1"]
        assert under_way(client, keys) == (1, 1)

    def test_a_second_message_of_a_call_that_ended_holds_none(self, client: Client, keys: Keys) -> None:
        """It was admitted once more, under the same id."""
        finish(client, keys, A, "1", recorded(client, keys, A, 1))
        admit(client, keys, counted("1"))
        assert under_way(client, keys) == (1, 1)
        assert fetch(client, keys, A, tag=2, direct=True)[2] == [b"1"]
        assert under_way(client, keys) == (0, 0)

    def test_a_call_that_redis_forgot_counts_again(self, client: Client, keys: Keys) -> None:
        """It runs, and its node records it again: with what its head says it counts for."""
        raw = client.hget(keys.unacked(A), "1") or b""
        client.delete(keys.tenant_calls(T), keys.client_calls(T, C), keys.calls(QUEUE), keys.unacked(A))
        assert run(client, "call_record", [keys.unacked(A)], [keys.begin, A, "1", raw]) == 1
        assert under_way(client, keys) == (1, 1)
        finish(client, keys, A, "1", recorded(client, keys, A, 1))
        assert under_way(client, keys) == (0, 0)


def test_a_head_that_says_nothing_of_permits_counts_for_none(client: Client, keys: Keys) -> None:
    """Also one whose words no gateway writes: it keeps no script from its work."""
    live(client, keys, A)
    for number, words in enumerate(("0", "x", "1:2", "1:x:1:t:c")):
        of = head(f"c{number}", permits=words, leave=Retry.NEVER)
        assert admit(client, keys, of)[0] == b"admitted"
        fetch(client, keys, A, tag=number + 1, direct=True)
        assert finish(client, keys, A, str(number + 1), of)[0] == []
    assert not list(client.scan_iter(f"{keys.begin}calls-of:*"))
