"""The judge of the chaos runs: a sound history passes, and each planted breach is named by the right invariant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from tests.support import planted as plant
from tests.support.history import History, Seen
from tests.support.invariants import CHECKS, judge
from tests.support.ownership import one_owner
from tests.support.planted import REST, RULES, T0, ended, fault, line, opened, seen, sent, sound
from tests.support.verdict import Rules, Violation


def named(history: History, rules: Rules = RULES) -> list[str]:
    """The invariants that are breached."""
    return [violation.invariant for violation in judge(history, rules)]


def test_a_sound_history_passes() -> None:
    """What the breaches below are planted into is no breach itself."""
    assert judge(sound(), RULES) == []


@pytest.mark.parametrize(
    "planted",
    [
        *(plant.lost, plant.ended_twice, plant.ended_late, plant.silent, plant.untyped),
        *(plant.closed, plant.closed_elsewhere, plant.closed_by_term, plant.closed_long_after),
    ],
)
def test_i1_a_lost_call_is_named(planted) -> None:  # type: ignore[no-untyped-def]
    """Each way of losing a call."""
    assert named(planted()) == ["I1"], planted.__doc__


def test_i1_a_stream_may_close_with_its_web_process() -> None:
    """Killed while the call waited: the client's stream is closed, and that is its end."""
    killed = fault("kill", 0.9, "web0", "web", port=80)
    assert named(replace(sound(), ended=[ended("c1", 1.0, "closed")], faults=[killed])) == []


def test_an_id_used_twice_is_named() -> None:
    """It would hide a lost call behind another."""
    assert "history" in named(replace(sound(), sent=[sent("c1"), sent("c1")]))


def test_i2_twice_without_leave() -> None:
    """Once in each of two sessions, or twice in one: both are twice."""
    for marker in ("m1", "m2"):
        twice = [seen("c1"), seen("c1", 0.7, marker=marker)]
        assert "I2" in named(replace(sound(), seen=twice))


def test_i2_twice_with_leave_is_none() -> None:
    """The operator said that running twice does no harm."""
    twice = [seen("c1"), seen("c1", 0.7)]
    assert named(replace(sound(), sent=[sent("c1", leave=True)], seen=twice)) == []


def test_i2_an_answer_that_no_backend_gave() -> None:
    """Then the backends' file is missing, or somebody makes answers up."""
    assert named(replace(sound(), seen=[])) == ["I2"]


def test_i2_a_call_that_nobody_sent() -> None:
    """A backend got something of its own making."""
    assert "I2" in named(replace(sound(), seen=[seen("c1"), seen("c9", 0.6)]))


def test_i2_a_refusal_of_what_ran() -> None:
    """STORE_UNAVAILABLE promises that the tool has not acted, unless it says that nobody knows."""
    refused = ended("c1", 1.0, "error", code="STORE_UNAVAILABLE")
    assert named(replace(sound(), ended=[refused])) == ["I2"]
    assert named(replace(sound(), ended=[replace(refused, unknown=True)])) == []


def down_time(*events: Seen) -> History:
    """The backend is down for ten seconds, its circuit opens after one."""
    base = sound()
    return replace(
        base,
        sent=[
            *base.sent,
            sent("r", 10.5),
            *(sent(event.call, 11.0) for event in events if event.kind == "got"),
        ],
        ended=[
            *base.ended,
            ended("r", 11.0, "error", code="CIRCUIT_OPEN"),
            *(
                ended(event.call, 15.0, "error", code="TRANSPORT_FAILURE")
                for event in events
                if event.kind == "got"
            ),
        ],
        seen=[*base.seen, *events],
        faults=[
            fault("down", 10.0, "plain", "backend"),
            fault("up", 20.0, "plain", "backend"),
        ],
    )


def test_i5_two_tries_at_a_time() -> None:
    """Two calls at a backend whose circuit is open, one before the other has ended."""
    tries = [seen("p1", 13.0), seen("p2", 13.1), seen("p1", 13.2, "broke"), seen("p2", 13.3, "broke")]
    assert named(down_time(*tries)) == ["I5"]


def test_i5_one_after_the_other_is_none() -> None:
    """A try that begins when the one before has ended."""
    tries = [seen("p1", 13.0), seen("p1", 13.1, "broke"), seen("p2", 14.2), seen("p2", 14.3, "broke")]
    assert named(down_time(*tries)) == []


def test_i5_more_tries_than_times_to_try() -> None:
    """One at a time, but each at once behind the other: the circuit does not wait."""
    tries = [
        event
        for number in range(14)
        for event in (seen(f"p{number}", 13 + number / 10), seen(f"p{number}", 13.05 + number / 10, "broke"))
    ]
    assert named(down_time(*tries)) == ["I5"]


def test_i5_more_permits_than_allowed() -> None:
    """Redis itself holds two permits."""
    assert named(replace(sound(), samples=[{**REST, "permits": {"plain": 2}}])) == ["I5"]


def test_i6_the_answer_to_another() -> None:
    """Another call's answer, and the right call's with another tenant's name."""
    for wrong in ({"call": "c2"}, {"tenant": "umbra"}, {"client": "b"}):
        echo = {"call": "c1", "tenant": "acme", "client": "a", **wrong}
        assert named(replace(sound(), ended=[ended("c1", echo=echo)])) == ["I6"]


def test_i6_a_session_of_two_callers() -> None:
    """A session is its caller's alone, unless the tool's sessions are everybody's."""
    base = sound()
    more = replace(
        base,
        sent=[*base.sent, sent("c2", tenant="umbra")],
        ended=[*base.ended, ended("c2", echo={"call": "c2", "tenant": "umbra", "client": "a"})],
        seen=[*base.seen, seen("c2", 0.7, tenant="umbra")],
    )
    assert named(more) == ["I6"]
    pooled = [replace(event, tool="pool") for event in more.seen]
    assert named(replace(more, seen=pooled)) == []


def turns(*markers: str) -> History:
    """Calls of one caller, each in one of its sessions."""
    names = [f"c{number}" for number in range(len(markers))]
    return replace(
        sound(),
        sent=[sent(name) for name in names],
        ended=[ended(name) for name in names],
        seen=[
            seen(name, 0.1 * number, marker=marker)
            for number, (name, marker) in enumerate(zip(names, markers, strict=True))
        ],
    )


def test_i7_an_owner_that_comes_back() -> None:
    """A session used again after its successor was: two owners."""
    assert named(turns("m1", "m2", "m2")) == []
    assert named(turns("m1", "m2", "m1")) == ["I7"]


def test_i7_two_workers_take_turns() -> None:
    """Each era's sessions may be one after the other, and those of two workers mixed all the same."""
    history = turns("m1", "m2", "m1", "m2")
    eras = ("legacy", "modern", "legacy", "modern")
    mixed = [replace(event, era=era) for event, era in zip(history.seen, eras, strict=True)]
    one = replace(history, seen=mixed, faults=[fault("start", -1.0)])
    assert named(replace(one, opened=[opened("m1", 70), opened("m2", 71)])) == []
    other = replace(opened("m2", 71), ancestors=(8, 1))
    two = replace(one, opened=[opened("m1", 70), other], faults=[*one.faults, fault("start", -1.0, pid=8)])
    assert named(two) == ["I7"]


def test_i7_a_token_of_two_workers() -> None:
    """One token, two holders."""
    lines = [line(5, 70, "w1"), line(5, 71, "w2")]
    assert named(replace(sound(), sessions=lines)) == ["I7"]
    assert named(replace(sound(), sessions=[line(5, 70, "w1"), line(5, 71, "w1")])) == []


def test_i7_an_older_token() -> None:
    """A backend's message with an older token than one before, in the logs' own terms."""
    history = replace(
        turns("m1", "m2"),
        opened=[opened("m1", 70), opened("m2", 71)],
        sessions=[line(9, 70, "w1"), line(4, 71, "w2")],
    )
    found = list(one_owner(history, RULES))
    assert [violation.call for violation in found] == ["c1"]
    assert "token 4 after 9" in found[0].text
    swapped = replace(history, sessions=[line(4, 70, "w1"), line(9, 71, "w2")])
    assert list(one_owner(swapped, RULES)) == []
    same_worker = replace(history, sessions=[line(9, 70, "w1"), line(4, 71, "w1")])
    assert list(one_owner(same_worker, RULES)) == []


def test_i8_bounds() -> None:
    """A queue above its bound, by what a dead worker may have left too; a direct list; calls in flight."""
    for breach in (
        {"queues": {"tool.plain": 5}},
        {"queues": {"tool.plain": 3}, "direct": {"canalgate:direct:n:tool.plain": 2}},
        {"direct": {"canalgate:direct:n:tool.plain": 5}},
        {"in_flight": {"tool.plain": 4}},
    ):
        assert named(replace(sound(), samples=[{**REST, **breach}])) == ["I8"]


def test_i8_a_slow_refusal() -> None:
    """QUEUE_FULL comes at once."""
    slow = ended("c1", 5.5, "error", code="QUEUE_FULL")
    assert named(replace(sound(), ended=[slow], seen=[])) == ["I8"]
    assert named(replace(sound(), ended=[replace(slow, at=T0 + 0.5)], seen=[])) == []


def test_i9_what_is_left() -> None:
    """Descendants of a dead worker, backends that should have gone, and each counter that is not back at nothing."""
    assert named(replace(sound(), orphans=[{"process": "worker0", "pids": [5]}])) == ["I9"]
    assert named(replace(sound(), rests=[{**REST, "children": 1, "children_allowed": 0}])) == ["I9"]
    assert named(replace(sound(), rests=[{**REST, "children": 1, "children_allowed": None}])) == []
    for name, left in (
        *(("queues", {"tool.plain": 1}), ("direct", {"d": 1})),
        *(("unacked", 1), ("in_flight", {"tool.plain": 1}), ("permits", {"plain": 1})),
        ("leaked", ["canalgate:lost"]),
    ):
        assert named(replace(sound(), rests=[{**REST, name: left}])) == ["I9"], name


def test_i11_what_must_be_refused() -> None:
    """A call that is not allowed reaches a backend, is answered, or ends with what is no refusal."""
    base = replace(sound(), sent=[sent("c1", allowed=False)])
    forbidden = ended("c1", 1.0, "error", code="FORBIDDEN")
    assert named(replace(base, ended=[forbidden], seen=[])) == []
    assert "I11" in named(base)
    assert "I11" in named(replace(base, ended=[replace(forbidden, code="WORKER_LOST")], seen=[]))
    assert "I11" in named(replace(base, ended=[replace(forbidden, code="WORKER_LOST")]))


def test_lost_in_time() -> None:
    """WORKER_LOST more than 12 seconds after the death, or the freeze, of the worker that had the call."""
    for what in ("kill", "stop"):
        late = replace(
            sound(), ended=[ended("c1", 14.0, "error", code="WORKER_LOST")], faults=[fault(what, 1.0)]
        )
        assert named(late) == ["lost_in_time"]
        assert named(replace(late, faults=[fault(what, 3.0)])) == []
        assert named(replace(late, faults=[fault(what, 1.0, pid=8)])) == []


def test_lost_in_time_with_leave() -> None:
    """A call that may run again goes on to another worker; if that one dies too, the time runs from then."""
    faults = [fault("kill", 1.0), fault("kill", 9.0, pid=8)]
    late = replace(sound(), ended=[ended("c1", 14.0, "error", code="WORKER_LOST")], faults=faults)
    assert named(replace(late, sent=[sent("c1", leave=True)])) == []
    assert named(replace(late, sent=[sent("c1", leave=True)], faults=faults[:1])) == ["lost_in_time"]
    assert named(late) == ["lost_in_time"]


def test_nobody_ends_by_itself() -> None:
    """A process that the harness has not ended."""
    assert named(replace(sound(), exits=[{"process": "worker0", "kind": "worker", "status": 70}])) == [
        "alive"
    ]


def test_nothing_proves_nothing() -> None:
    """A run in which nobody called, or nobody looked at the end, is no proof."""
    assert "history" in named(History())
    assert "history" in named(replace(sound(), rests=[]))


def test_every_check_can_fail() -> None:
    """Each check is one that a test above has made fail: the list has not grown behind their back."""
    assert {check.__name__ for check in CHECKS} == {
        *("readable", "alive", "none_lost", "none_twice", "probes", "isolation", "one_owner"),
        *("bounded", "clean", "fail_closed", "lost_in_time"),
    }


def test_files_are_read(tmp_path: Path) -> None:
    """The files of a run, a worker's log with foreign lines in it, and a line that nobody can read."""
    base = {"at": T0, "wall": 5.0}
    call = {"call": "c1", "tool": "plain", "tenant": "acme", "client": "a", "era": "modern"}
    files = {
        "client.jsonl": [
            {**base, **call, "event": "sent", "port": 80, "deadline": 10, "leave": False, "allowed": True},
            {**base, "event": "ended", "call": "c1", "outcome": "answered", "seconds": 0.1, "echo": call},
        ],
        "backend.jsonl": [
            {**base, "event": "opened", "marker": "m1", "tool": "plain", "pid": 70, "ancestors": [7, 1]},
            {**base, **call, "event": "got", "marker": "m1", "count": 1, "pid": 70},
        ],
        "harness.jsonl": [
            {
                **base,
                "event": "fault",
                "what": "kill",
                "process": "w",
                "kind": "worker",
                "pid": 7,
                "port": None,
            },
            {**base, **REST, "event": "rest"},
            {**base, "event": "redis_up"},
        ],
    }
    for name, events in files.items():
        (tmp_path / name).write_bytes(b"\n".join(orjson.dumps(event) for event in events) + b"\n")
    told = {
        "event": "session_opened",
        "timestamp": "2026-11-27T17:00:00Z",
        "process": "w1",
        "session": "acme:a",
    }
    log = [
        b"Traceback",
        orjson.dumps({**told, "fence": 3, "pid": 70, "tool": "plain"}),
        b'{"event":"oth',
        b"[1]",
    ]
    (tmp_path / "worker0.log").write_bytes(b"\n".join(log))
    history = History.read(tmp_path)
    assert judge(history, RULES) == []
    assert [found.fence for found in history.sessions] == [3]
    assert history.opened[0].ancestors == (7, 1)
    with (tmp_path / "client.jsonl").open("ab") as file:
        file.write(b'{"event":"sent"}\n{"half')
    assert [type(found) for found in judge(History.read(tmp_path), RULES)] == [Violation, Violation]
