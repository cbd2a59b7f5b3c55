"""Histories made by hand: a sound one, the parts it is made of, and the ways to lose a call in it."""

from __future__ import annotations

from dataclasses import replace

from tests.support.history import Ended, Fault, History, Opened, Seen, Sent, SessionLine
from tests.support.verdict import Rules

T0 = 1000.0
RULES = Rules(
    queue_max_length={"plain": 2},
    max_in_flight={"plain": 3},
    probes={"plain": 1},
    open_for={"plain": 1.0},
    shared=frozenset({"pool"}),
)
REST = {
    "queues": {},
    "direct": {},
    "nodes": 1,
    "unacked": 0,
    "in_flight": {},
    "permits": {},
}


def sent(call: str, after: float = 0.0, **fields: object) -> Sent:
    """A call of acme/a at the tool ``plain``."""
    base = {"tool": "plain", "tenant": "acme", "client": "a", "era": "modern", "deadline": 10.0, "port": 80}
    return Sent(**{**base, "call": call, "at": T0 + after, **fields})  # type: ignore[arg-type]


def ended(call: str, after: float = 1.0, outcome: str = "answered", **fields: object) -> Ended:
    """Its end; an answer is that to the call."""
    echo = {"call": call, "tenant": "acme", "client": "a"} if outcome == "answered" else None
    base = {"call": call, "at": T0 + after, "outcome": outcome, "seconds": 0.01, "echo": echo}
    return Ended(**{**base, **fields})  # type: ignore[arg-type]


def seen(call: str, after: float = 0.5, kind: str = "got", **fields: object) -> Seen:
    """An event at the backend's session ``m1``."""
    base = {"tool": "plain", "tenant": "acme", "client": "a", "era": "modern", "marker": "m1"}
    return Seen(**{**base, "call": call, "at": T0 + after, "kind": kind, **fields})  # type: ignore[arg-type]


def fault(what: str, after: float, process: str = "worker0", kind: str = "worker", **fields: object) -> Fault:
    """Something the harness did."""
    base = {"what": what, "at": T0 + after, "process": process, "kind": kind, "pid": 7}
    return Fault(**{**base, **fields})  # type: ignore[arg-type]


def opened(marker: str, pid: int, after: float = 0.0) -> Opened:
    """A backend's session below the worker with pid 7."""
    return Opened(marker=marker, at=T0 + after, wall=after, tool="plain", pid=pid, ancestors=(7, 1))


def line(
    fence: int, pid: int | None, worker: str = "w1", wall: float = 0.0, session: str = "acme:a"
) -> SessionLine:
    """A worker's line about the start of a session."""
    return SessionLine(
        kind="session_opened", wall=wall, worker=worker, tool="plain", session=session, fence=fence, pid=pid
    )


def sound() -> History:
    """One call, answered once, and nothing left."""
    return History(
        sent=[sent("c1")],
        ended=[ended("c1")],
        seen=[seen("c1"), seen("c1", 0.6, "done")],
        opened=[opened("m1", 70)],
        sessions=[line(1, 70)],
        rests=[dict(REST)],
        orphans=[{"process": "worker0", "pids": []}],
        samples=[{**REST, "queues": {"tool.plain": 2}, "permits": {"plain": 1}}],
    )


def lost() -> History:
    """A call without an end."""
    return replace(sound(), ended=[])


def ended_twice() -> History:
    """A call with two ends."""
    return replace(sound(), ended=[ended("c1"), ended("c1", 2.0)])


def ended_late() -> History:
    """An end more than 12 seconds behind the deadline."""
    return replace(sound(), ended=[ended("c1", 22.1)])


def silent() -> History:
    """A caller who gave up waiting."""
    return replace(sound(), ended=[ended("c1", 20.0, "silent")])


def untyped() -> History:
    """An end that is neither a result nor one of our errors."""
    return replace(sound(), ended=[ended("c1", 1.0, "untyped")])


def closed() -> History:
    """A stream closed, and nobody had killed its web process."""
    return replace(sound(), ended=[ended("c1", 1.0, "closed")])


def closed_elsewhere() -> History:
    """A stream closed when another web process was killed."""
    killed = fault("kill", 0.9, "web1", "web", port=81)
    return replace(sound(), ended=[ended("c1", 1.0, "closed")], faults=[killed])


def closed_by_term() -> History:
    """A stream closed by a shutdown that should have waited."""
    return replace(
        sound(), ended=[ended("c1", 1.0, "closed")], faults=[fault("term", 0.9, "web0", "web", port=80)]
    )


def closed_long_after() -> History:
    """A stream closed long after its web process was killed."""
    return replace(
        sound(), ended=[ended("c1", 5.0, "closed")], faults=[fault("kill", 0.9, "web0", "web", port=80)]
    )
