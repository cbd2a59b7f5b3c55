"""A call's life from the queue to its one end, and the bounds on it: the rules of delivery as a pure state machine.

It says what the scripts ``admit``, ``fetch``, ``finish``, ``call_return`` and ``node_rescue`` do with one tool's calls;
``tests/lua/test_delivery_twin.py`` holds both against each other. Who owns the sessions is told by a
:class:`~common.domain.ownership.Directory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from common.domain.ownership import Directory, Node, Session, bury, claim, tenant_of
from common.domain.rules import Retry

MOST_ATTEMPTS = 3
"""A call that has leave is given to so many nodes, then it is answered: it may be what kills them."""


class Verdict(StrEnum):
    """What a node learns of a call that it took."""

    HELD = "held"
    """The session is the node's."""
    CLAIMED = "claimed"
    """It is so from now on."""
    TOOL_LIMIT = "tool_limit"
    TENANT_LIMIT = "tenant_limit"
    """A bound on sessions keeps it from being created."""


class Refusal(StrEnum):
    """Why a call is not admitted for the sake of its session."""

    DRAINING = "draining"
    """The tool takes no new sessions."""
    TOOL_LIMIT = "tool_limit"
    TENANT_LIMIT = "tenant_limit"
    """A bound on sessions would keep its session from being created."""


class End(StrEnum):
    """How a call ended."""

    ANSWERED = "answered"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of the tool; 0 is none. ``tenant_max_sessions`` is the same for each tenant here."""

    in_flight: int = 0
    max_sessions: int = 0
    tenant_max_sessions: int = 0

    def reached(self, directory: Directory, session: Session) -> Literal["tool_limit", "tenant_limit"] | None:
        """Which bound keeps a session from being created. Those of dead nodes count until they are freed."""
        if self.max_sessions and len(directory.owners) >= self.max_sessions:
            return "tool_limit"
        tenant = tenant_of(session)
        own = sum(tenant_of(other) == tenant for other in directory.owners)
        return "tenant_limit" if self.tenant_max_sessions and own >= self.tenant_max_sessions else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the tool."""

    id: str
    session: Session
    leave: Retry
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A call that a node has begun. The record is the right to answer it."""

    call: Call
    unsent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """``queue`` is the tool's, ``direct`` the nodes' lists, each with the oldest call first.

    ``held`` has the records by node and delivery tag, ``ends`` the ends by id. ``declared`` are the ids that nodes
    said they have begun, after a restart of Redis, which may have forgotten the records.
    """

    queue: tuple[Call, ...] = ()
    direct: Mapping[Node, tuple[Call, ...]] = field(default_factory=dict)
    held: Mapping[tuple[Node, int], Record] = field(default_factory=dict)
    ends: Mapping[str, End] = field(default_factory=dict)
    declared: frozenset[str] = frozenset()

    def begun(self, call: str) -> bool:
        """Whether a call of this id was begun: it is not begun again."""
        return (
            call in self.ends
            or call in self.declared
            or any(record.call.id == call for record in self.held.values())
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """A call that a node took, and the fencing token of its session (0 if it was refused one)."""

    call: Call
    verdict: Verdict
    token: int


def admit(
    ledger: Ledger, directory: Directory, call: Call, limits: Limits, *, may_create: bool
) -> tuple[Ledger, Refusal | None]:
    """Put a call on the direct list of the living owner of its session, or on the queue; or say why not.

    The bounds are kept by :func:`take`. Here they only refuse at once what would be refused.
    """
    owner = directory.living_owner(call.session)
    if owner is not None:
        return _with_direct(ledger, owner.node, (*ledger.direct.get(owner.node, ()), call)), None
    if not may_create:
        return ledger, Refusal.DRAINING
    bound = limits.reached(directory, call.session)
    if call.session not in directory.owners and bound is not None:
        return ledger, Refusal(bound)
    return replace(ledger, queue=(*ledger.queue, call)), None


def take(
    ledger: Ledger,
    directory: Directory,
    node: Node,
    limits: Limits,
    *,
    tag: int,
    from_direct: bool,
    now: int,
    now_us: int,
) -> tuple[Ledger, Directory, Taken | None]:
    """Take the next call for a node from the queue or from its direct list.

    What another living node owns the session of is passed on, in front of what waits for that one and in its order;
    what was begun before is dropped.
    """
    passed: list[tuple[Node, Call]] = []
    ledger, directory, taken = _next(
        ledger, directory, node, limits, passed, tag=tag, from_direct=from_direct, now=now, now_us=now_us
    )
    for owner, call in reversed(passed):
        ledger = _with_direct(ledger, owner, (call, *ledger.direct.get(owner, ())))
    return ledger, directory, taken


def _next(
    ledger: Ledger,
    directory: Directory,
    node: Node,
    limits: Limits,
    passed: list[tuple[Node, Call]],
    *,
    tag: int,
    from_direct: bool,
    now: int,
    now_us: int,
) -> tuple[Ledger, Directory, Taken | None]:
    """:func:`take`, but for what is passed on: it is collected."""
    while directory.may_take(node, now):
        waiting = ledger.direct.get(node, ()) if from_direct else ledger.queue
        if not waiting or (limits.in_flight and len(ledger.held) >= limits.in_flight):
            return ledger, directory, None
        call, rest = waiting[0], waiting[1:]
        ledger = _with_direct(ledger, node, rest) if from_direct else replace(ledger, queue=rest)
        owner = directory.living_owner(call.session)
        if owner is not None and owner.node != node:
            passed.append((owner.node, call))
            continue
        if ledger.begun(call.id):
            continue
        if owner is not None:
            return (
                _with_held(ledger, node, tag, Record(call)),
                directory,
                Taken(call, Verdict.HELD, owner.token),
            )
        bound = limits.reached(directory, call.session)
        if call.session not in directory.owners and bound is not None:
            return _with_held(ledger, node, tag, Record(call)), directory, Taken(call, Verdict(bound), 0)
        directory, claimed = claim(directory, call.session, node, now_us=now_us)
        # The session has still to start.
        ledger = _with_held(ledger, node, tag, Record(call, unsent=True))
        return ledger, directory, Taken(call, Verdict.CLAIMED, claimed.token)
    return ledger, directory, None


def note(ledger: Ledger, node: Node, tag: int, *, unsent: bool) -> Ledger:
    """Put on record whether the backend has seen something of a call that a node holds."""
    return _with_held(ledger, node, tag, replace(ledger.held[node, tag], unsent=unsent))


def declare(ledger: Ledger, call: str) -> Ledger:
    """A node says that it has begun this call, whatever Redis remembers of it."""
    return replace(ledger, declared=ledger.declared | {call})


def finish(ledger: Ledger, directory: Directory, node: Node, tag: int, call: Call) -> tuple[Ledger, bool]:
    """Answer a call; False if its end comes too late: it has one, or its node was declared dead."""
    recorded = (node, tag) in ledger.held
    if not recorded and (node in directory.dead or call.id in ledger.ends):
        return ledger, False
    held = {key: record for key, record in ledger.held.items() if key != (node, tag)}
    return replace(ledger, held=held, ends={**ledger.ends, call.id: End.ANSWERED}), True


def put_back(ledger: Ledger, node: Node, tag: int) -> Ledger:
    """A call that a node holds and has not sent goes back in front of the queue.

    Unless another has declared that it began it; the node's own declaration is taken back (``declared`` has others').
    """
    record = ledger.held.get((node, tag))
    if record is None:
        return ledger
    held = {key: other for key, other in ledger.held.items() if key != (node, tag)}
    if record.call.id in ledger.declared:
        return replace(ledger, held=held)
    return replace(ledger, held=held, queue=(record.call, *ledger.queue))


def rescue(ledger: Ledger, directory: Directory, node: Node) -> tuple[Ledger, Directory]:
    """Work off what a dead node left: nothing of it is lost, and nothing that was sent runs again without leave."""
    if node not in directory.dead:
        return ledger, directory
    returned: list[Call] = []
    ends = dict(ledger.ends)
    for (holder, _), record in sorted(ledger.held.items(), key=lambda item: item[0][1]):
        if holder != node:
            continue
        if record.call.id in ends:
            continue
        again = replace(record.call, attempt=record.call.attempt + 1)
        if (record.unsent or again.leave is Retry.SAFE) and again.attempt <= MOST_ATTEMPTS:
            returned.append(again)
        else:
            ends[again.id] = End.LOST
    ledger = replace(
        ledger,
        queue=(*returned, *ledger.direct.get(node, ()), *ledger.queue),
        held={key: record for key, record in ledger.held.items() if key[0] != node},
        ends=ends,
        declared=ledger.declared - {call.id for call in returned},
    )
    return _with_direct(ledger, node, ()), bury(directory, node)


def _with_direct(ledger: Ledger, node: Node, calls: tuple[Call, ...]) -> Ledger:
    direct = {**ledger.direct, node: calls}
    return replace(ledger, direct={name: waiting for name, waiting in direct.items() if waiting})


def _with_held(ledger: Ledger, node: Node, tag: int, record: Record) -> Ledger:
    return replace(ledger, held={**ledger.held, (node, tag): record})
