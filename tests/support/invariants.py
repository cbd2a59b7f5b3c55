"""What every run is judged by. Each check is pure: a history and the rules in, the violations out.

====  ==================================================================================================
I1    none lost: each call sent has exactly one end, typed, within its deadline and 12 s; or its stream
      was closed by the death of its web process, or its caller left
I2    none twice without leave; what an answer says of the call is true of what the backend saw
I5    at most so many half-open tries at a time in the whole cluster
I6    isolation: no answer, no session of one caller reaches another
I7    one owner: a backend's session is never used again after its successor was
I8    bounded: no queue above its bound, and its refusal comes at once
I9    clean: nothing left of what a dead worker started, nothing counted once all is quiet
I11   fail closed: what has to be refused is refused, whatever is broken
====  ==================================================================================================

``lost_in_time`` holds the figure: WORKER_LOST within 12 s of the worker's death. ``alive``: nobody ends by itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.support.history import Ended, Fault, History, Opened, Seen, Sent
from tests.support.ownership import one_owner
from tests.support.verdict import PATIENCE, Rules, Violation

NOT_RUN = frozenset(
    {
        *("INVALID_REQUEST", "UNAUTHENTICATED", "FORBIDDEN", "SESSION_NOT_FOUND", "TOOL_NOT_FOUND"),
        *(
            "TOOL_DISABLED",
            "TOOL_DRAINING",
            "CIRCUIT_OPEN",
            "SESSION_LIMIT",
            "TOOL_UNAVAILABLE",
            "POLICY_DENIED",
        ),
        *("RATE_LIMITED", "QUEUE_FULL", "STORE_UNAVAILABLE"),
    }
)
"""Codes that say that the tool has not acted, unless the error says ``outcome: unknown``."""

REFUSALS = frozenset({"UNAUTHENTICATED", "FORBIDDEN", "POLICY_DENIED", "STORE_UNAVAILABLE", "TOOL_NOT_FOUND"})
"""Ends that a call which is not allowed may have."""


Check = Callable[[History, Rules], Iterator[Violation]]


def judge(history: History, rules: Rules) -> list[Violation]:
    """All violations of all invariants."""
    return [violation for check in CHECKS for violation in check(history, rules)]


def readable(history: History, _rules: Rules) -> Iterator[Violation]:
    """A history with nothing in it, or with lines that nobody can read, proves nothing."""
    if not history.sent:
        yield Violation(invariant="history", text="not one call was sent")
    for line in history.unreadable:
        yield Violation(invariant="history", text=line)


# -- I1 -------------------------------------------------------------------------------------------------


def none_lost(history: History, rules: Rules) -> Iterator[Violation]:
    """I1."""
    ends, calls = history.ends(), history.calls()
    if len(calls) != len(history.sent):
        yield Violation(invariant="history", text="a call's id was used twice")
    for call in history.sent:
        found = ends.get(call.call, [])
        if len(found) != 1:
            yield Violation(invariant="I1", text=f"{len(found)} ends instead of one: {found}", call=call.call)
        for end in found:
            yield from _judge_end(history.faults, rules, call, end)


def _judge_end(faults: Sequence[Fault], rules: Rules, call: Sent, end: Ended) -> Iterator[Violation]:
    waited = end.at - call.at
    if end.outcome in {"silent", "untyped"}:
        yield Violation(invariant="I1", text=f"its end is {end.outcome}", call=call.call)
    elif waited > call.deadline + PATIENCE:
        yield Violation(
            invariant="I1", text=f"{end.code or end.outcome} after {waited:.1f} s", call=call.call
        )
    if end.outcome == "closed" and not _web_died(faults, rules, call, end):
        text = f"its stream on port {call.port} was closed, and that web process had not died"
        yield Violation(invariant="I1", text=text, call=call.call)


def _web_died(faults: Sequence[Fault], rules: Rules, call: Sent, end: Ended) -> bool:
    """Whether the web process of the call was killed while it waited."""
    return any(
        fault.kind == "web"
        and fault.what == "kill"
        and fault.port == call.port
        and call.at - rules.closed_within <= fault.at <= end.at <= fault.at + rules.closed_within
        for fault in faults
    )


def alive(history: History, _rules: Rules) -> Iterator[Violation]:
    """No process of ours ends by itself."""
    for exit_ in history.exits:
        text = f"{exit_['process']} ended by itself with status {exit_['status']}"
        yield Violation(invariant="alive", text=text)


# -- I2 -------------------------------------------------------------------------------------------------


def none_twice(history: History, _rules: Rules) -> Iterator[Violation]:
    """I2."""
    got, ends, calls = history.got(), history.ends(), history.calls()
    for name, arrivals in got.items():
        call = calls.get(name)
        if call is None:
            yield Violation(invariant="I2", text="a backend got a call that nobody sent", call=name)
        elif len(arrivals) > 1 and not call.leave:
            yield Violation(invariant="I2", text=f"ran {len(arrivals)} times without leave", call=name)
    for call in history.sent:
        for end in ends.get(call.call, []):
            yield from _judge_truth(call, end, len(got.get(call.call, [])))


def _judge_truth(call: Sent, end: Ended, ran: int) -> Iterator[Violation]:
    """Whether what the caller was told is true of what the backend saw."""
    if end.outcome == "answered" and ran == 0:
        yield Violation(invariant="I2", text="was answered, and no backend got it", call=call.call)
    if end.code in NOT_RUN and not end.unknown and ran:
        yield Violation(invariant="I2", text=f"ended with {end.code}, and had run", call=call.call)


# -- I5 -------------------------------------------------------------------------------------------------


def probes(history: History, rules: Rules) -> Iterator[Violation]:
    """I5: by the permits in Redis, and by what a backend saw while it was down and its circuit open."""
    for sample in history.samples:
        for tool, count in sample.get("permits", {}).items():
            if count > rules.probes.get(tool, math.inf):
                yield Violation(invariant="I5", text=f"{count} permits of {tool} at a time")
    for tool, most in rules.probes.items():
        for begin, end in _down_times(history, tool, rules):
            yield from _judge_window(history, rules, tool, most, begin, end)


def _down_times(history: History, tool: str, rules: Rules) -> Iterator[tuple[float, float]]:
    """From when a circuit had certainly opened to when its backend worked again."""
    calls, begun = history.calls(), None
    refused = [end.at for end in history.ended if end.code == "CIRCUIT_OPEN" and calls[end.call].tool == tool]
    for fault in history.faults:
        if fault.process != tool or fault.what not in {"up", "down"}:
            continue
        if fault.what == "up" and begun is not None:
            opened = next((at for at in refused if begun <= at < fault.at), None)
            if opened is not None and opened + rules.settle < fault.at:
                yield opened + rules.settle, fault.at
            begun = None
        elif fault.what == "down":
            begun = fault.at


def _judge_window(
    history: History, rules: Rules, tool: str, most: int, begin: float, end: float
) -> Iterator[Violation]:
    spans = [span for span in _spans(history, tool) if begin < span[0] < end]
    overlap = _most_at_once(spans)
    if overlap > most:
        yield Violation(
            invariant="I5", text=f"{overlap} tries of {tool} at a time while its circuit was open"
        )
    if tool in rules.open_for:
        allowed = most * (math.ceil((end - begin) / rules.open_for[tool]) + 1)
        if len(spans) > allowed:
            text = f"{len(spans)} tries of {tool} in {end - begin:.1f} s while its circuit was open, not {allowed}"
            yield Violation(invariant="I5", text=text)


def _spans(history: History, tool: str) -> list[tuple[float, float]]:
    """From when to when a tool's backends worked on each call; nothing for one whose end nobody saw."""
    begun: dict[tuple[str, str | None], float] = {}
    found: list[tuple[float, float]] = []
    for event in history.seen:
        if event.tool != tool:
            continue
        key = (event.call, event.marker)
        if event.kind == "got":
            begun[key] = event.at
        elif key in begun:
            found.append((begun.pop(key), event.at))
    return sorted([*found, *((at, at) for at in begun.values())])


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    moments = sorted(
        [(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans], key=lambda m: (m[0], -m[1])
    )
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


# -- I6 -------------------------------------------------------------------------------------------------


def isolation(history: History, rules: Rules) -> Iterator[Violation]:
    """I6."""
    calls = history.calls()
    for end in history.ended:
        call = calls.get(end.call)
        if call is None or end.echo is None:
            continue
        told = (end.echo.get("call"), end.echo.get("tenant"), end.echo.get("client"))
        if told != (call.call, call.tenant, call.client):
            yield Violation(invariant="I6", text=f"its answer is that of {told}", call=call.call)
    users: defaultdict[str, set[tuple[str, str | None, str | None]]] = defaultdict(set)
    for event in history.seen:
        if event.marker is not None and event.tool not in rules.shared:
            users[event.marker].add((event.tool, event.tenant, event.client))
    for marker, found in users.items():
        if len(found) > 1:
            yield Violation(invariant="I6", text=f"the session {marker} served {sorted(map(str, found))}")


# -- I8 -------------------------------------------------------------------------------------------------


def bounded(history: History, rules: Rules) -> Iterator[Violation]:
    """I8."""
    nodes = 0
    for sample in history.samples:
        nodes = max(nodes, sample["nodes"])
        for tool, most in rules.queue_max_length.items():
            queue = f"tool.{tool}"
            direct = [length for name, length in sample["direct"].items() if name.endswith(f":{queue}")]
            # Each list is bounded where calls are admitted. What moves from one to another comes on top: to the owner
            # of its session, or back from a worker that died.
            waiting, bound = sample["queues"].get(queue, 0) + sum(direct), most * (1 + nodes)
            if waiting > bound:
                yield Violation(invariant="I8", text=f"{waiting} calls of {tool} wait, the bound is {bound}")
        for tool, most in rules.max_in_flight.items():
            if (held := sample["in_flight"].get(f"tool.{tool}", 0)) > most:
                yield Violation(invariant="I8", text=f"{held} calls of {tool} in flight, the bound is {most}")
    calls = history.calls()
    for end in history.ended:
        if end.code == "QUEUE_FULL" and (took := end.at - calls[end.call].at) > rules.refused_within:
            yield Violation(invariant="I8", text=f"QUEUE_FULL after {took:.2f} s", call=end.call)


# -- I9 -------------------------------------------------------------------------------------------------


def clean(history: History, _rules: Rules) -> Iterator[Violation]:
    """I9."""
    for look in history.orphans:
        if look["pids"]:
            text = f"two seconds after the death of {look['process']} these lived: {look['pids']}"
            yield Violation(invariant="I9", text=text)
    if not history.rests:
        yield Violation(invariant="history", text="nobody looked what was left at the end")
    for rest in history.rests:
        allowed = rest.get("children_allowed")
        if allowed is not None and rest["children"] > allowed:
            yield Violation(invariant="I9", text=f"{rest['children']} backends still run, not {allowed}")
        for name in COUNTED:
            if _anything(rest.get(name)):
                yield Violation(invariant="I9", text=f"{name} is not empty once all is quiet: {rest[name]}")


COUNTED = ("queues", "direct", "unacked", "in_flight", "permits", "leaked")


def _anything(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(value.values())
    return bool(value)


# -- I11 ------------------------------------------------------------------------------------------------


def fail_closed(history: History, _rules: Rules) -> Iterator[Violation]:
    """I11."""
    got, ends = history.got(), history.ends()
    for call in history.sent:
        if call.allowed:
            continue
        if call.call in got:
            yield Violation(invariant="I11", text="was not allowed, and reached a backend", call=call.call)
        for end in ends.get(call.call, []):
            if end.outcome == "answered" or (end.outcome == "error" and end.code not in REFUSALS):
                text = f"was not allowed, and ended with {end.code or end.outcome}"
                yield Violation(invariant="I11", text=text, call=call.call)


# -- the figure -----------------------------------------------------------------------------------------


def lost_in_time(history: History, rules: Rules) -> Iterator[Violation]:
    """WORKER_LOST comes in time, counted from the death, or the freeze, of the worker that had the call.

    With leave it may have gone on to another worker that died before a backend saw it: then the last death counts.
    """
    got, sent = history.got(), {call.call: call for call in history.sent}
    sessions = {opened.marker: opened for opened in history.opened if opened.marker is not None}
    for end in history.ended:
        if end.code != "WORKER_LOST":
            continue
        for arrival in got.get(end.call, []):
            death = _death(history.faults, sessions.get(arrival.marker or ""), arrival, end)
            if death is not None and end.call in sent and sent[end.call].leave:
                death = max(_ended_workers(history.faults, death.at, end.at), key=lambda fault: fault.at)
            if death is not None and end.at - death.at > rules.lost_within:
                text = f"WORKER_LOST {end.at - death.at:.1f} s after {death.process} had its {death.what}"
                yield Violation(invariant="lost_in_time", text=text, call=end.call)


def _death(faults: Sequence[Fault], session: Opened | None, arrival: Seen, end: Ended) -> Fault | None:
    if session is None:
        return None
    ended = _ended_workers(faults, arrival.at, end.at)
    return next((fault for fault in ended if fault.pid in session.ancestors), None)


def _ended_workers(faults: Sequence[Fault], since: float, until: float) -> list[Fault]:
    return [
        fault
        for fault in faults
        if fault.kind == "worker" and fault.what in {"kill", "stop"} and since <= fault.at <= until
    ]


CHECKS: tuple[Check, ...] = (
    *(readable, alive, none_lost, none_twice, probes, isolation, one_owner, bounded, clean, fail_closed),
    lost_in_time,
)
