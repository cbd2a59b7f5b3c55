"""What the delivery's scripts tell the journal of calls, each in the step of what it tells of."""

from __future__ import annotations

import pytest

from common.audit.journal import Journal
from common.calls.admission import JournalFull, Order, QueueBounds, admit_script, verdict_of
from common.domain.audit_call import MEMBER, packed
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.common.store.delivery import RESULT_MS, A, die, fetch, head_of, live, rescue_all, send_all
from tests.support.messages import QUEUE, head, unstamped

CALL = packed(("acme", "ci|x", "ann", "tools/call", "echo", "7", ""))
BOUNDS = QueueBounds(max_length=9, max_age=60)
TOLD = {
    "tenant": "acme",
    "client": "ci|x",
    "actor": "ann",
    "method": "tools/call",
    "capability": "echo",
    "request_id": "7",
    "tool": "a",
}


def admit(client: Client, keys: Keys, *, told: bool = True, most: int = 0, **parts: str) -> object:
    message = unstamped(head("i 1", **parts), **({MEMBER: CALL} if told else {}))
    order = Order(queue=QUEUE, message=message, bounds=BOUNDS, most_events=most)
    return verdict_of(run(client, "admit", *admit_script(keys, order)))


def events(client: Client, keys: Keys) -> list[dict[str, str]]:
    return [dict(record.fields) for record in reversed(Journal(client, keys).newest(100))]


def finish(client: Client, keys: Keys, tag: str, told: str, record: str = "r") -> None:
    of = head("i 1")
    parts = [tag, of.id, of.queue, of.session, of.reply, record, "f", 0, told, of.permits]
    run(client, "finish", [keys.unacked(A)], [keys.begin, A, RESULT_MS, "", *parts])


def test_a_call_is_told_from_its_decision_to_its_end(client: Client, keys: Keys) -> None:
    """Who called what; who took it; how it came out. In this order, and once each, whoever sends an end twice."""
    live(client, keys, A)
    admit(client, keys)
    _, taken, _ = fetch(client, keys, A)
    for _ in range(2):
        finish(client, keys, taken[0][0], f"invocation_complete {CALL} success||12.5|0")
    node = {"session": "t:c", "node": A}
    assert events(client, keys) == [
        {"kind": "policy_decision", "invocation": "i 1", "outcome": "allow", **TOLD},
        {"kind": "invocation_start", "invocation": "i 1", "attempt": "0", **node, **TOLD},
        {
            "kind": "invocation_complete",
            "invocation": "i 1",
            "outcome": "success",
            "duration_ms": "12.5",
            "attempt": "0",
            **node,
            **TOLD,
        },
    ]


def test_a_call_that_is_not_audited_leaves_nothing(client: Client, keys: Keys) -> None:
    """Its message says nothing, and so do the scripts."""
    live(client, keys, A)
    admit(client, keys, told=False)
    _, taken, _ = fetch(client, keys, A)
    finish(client, keys, taken[0][0], "")
    assert events(client, keys) == []


def test_a_late_end_is_none(client: Client, keys: Keys) -> None:
    """The one that counts was told before."""
    live(client, keys, A)
    admit(client, keys)
    fetch(client, keys, A)
    send_all(client, keys, A)
    die(client, keys, A)
    rescue_all(client, keys, A)
    finish(client, keys, "1", f"invocation_complete {CALL} success")
    told = [event["kind"] for event in events(client, keys)]
    assert told == ["policy_decision", "invocation_start", "node_lost", "invocation_lost"]
    lost = events(client, keys)[-1]
    assert lost["error_code"] == "WORKER_LOST"
    assert (lost["tenant"], lost["capability"], lost["node"]) == ("acme", "echo", A)


def test_a_call_that_goes_to_another_worker_is_begun_again(client: Client, keys: Keys) -> None:
    """The text of its message outlives the one that took it first; a call has one end, and may have two starts."""
    live(client, keys, A)
    admit(client, keys)
    fetch(client, keys, A)
    die(client, keys, A)
    rescue_all(client, keys, A)
    other = type(A)("celery@c:3")
    live(client, keys, other)
    fetch(client, keys, other)
    starts = [event for event in events(client, keys) if event["kind"] == "invocation_start"]
    assert [(event["node"], event["attempt"]) for event in starts] == [(A, "0"), (other, "1")]
    assert head_of(client.hget(keys.unacked(other), "1")).attempt == 1


def test_a_call_of_a_pool_is_told_with_its_session(client: Client, keys: Keys) -> None:
    """Which is chosen when it is taken."""
    live(client, keys, A)
    message = unstamped(head("i", session="*", pool_size=2), **{MEMBER: CALL})
    run(client, "admit", *admit_script(keys, Order(queue=QUEUE, message=message, bounds=BOUNDS)))
    fetch(client, keys, A)
    assert events(client, keys)[-1]["session"] == "*0"


@pytest.mark.parametrize(("most", "full"), [(0, False), (3, True), (4, False)])
def test_a_full_journal_refuses_calls(client: Client, keys: Keys, most: int, full: bool) -> None:
    """And takes nothing: no message, no event. Without a bound nobody looks."""
    for _ in range(3):
        client.xadd(keys.audit, {"kind": "x"})
    verdict = admit(client, keys, most=most)
    assert isinstance(verdict, JournalFull) == full
    assert client.llen(QUEUE) == (0 if full else 1)
    assert client.xlen(keys.audit) == (3 if full else 4)


def test_a_stock_producer_s_call_is_told_when_it_gets_its_head(client: Client, keys: Keys) -> None:
    """Refused by a full journal as well, and then it stays recorded, for it must be answered."""
    live(client, keys, A)
    client.hset(keys.unacked(A), "1", b"{}")
    message = unstamped(head("i 1"), **{MEMBER: CALL})

    def adopt(most: int) -> list[bytes]:
        answer: list[bytes] = run(
            client, "call_adopt", [keys.unacked(A), QUEUE], ["1", message, keys.begin, 1, 1, most]
        )
        return answer

    client.xadd(keys.audit, {"kind": "x"})
    assert adopt(1)[0] == b"journal_full"
    assert client.hexists(keys.unacked(A), "1")
    assert adopt(2) == [b"adopted"]
    assert events(client, keys)[-1] == {
        "kind": "policy_decision",
        "invocation": "i 1",
        "outcome": "allow",
        **TOLD,
    }
