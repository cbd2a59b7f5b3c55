"""Who lives and who owns which session: the rules that Redis keeps, as a pure state machine.

It says what the scripts ``node_beat``, ``node_fence``, ``session_release``, ``session_reclaim`` and, for the part that
concerns ownership, ``fetch`` and ``node_rescue`` do; ``tests/lua/test_delivery_twin.py`` holds both against each other.
Times are in milliseconds, those in ``now_us`` in microseconds; nothing here reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

Node = str
Session = str
"""``<tenant>:<client>`` or ``<tenant>:<client>:<MCP session>``, each part encoded."""


class Standing(StrEnum):
    """What a beat learns."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    """The node was not listed: its first beat, or Redis lost its data."""
    FENCED = "fenced"
    """It was declared dead, and never comes back under this name."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The node that owns a session, and the fencing token under which it does."""

    node: Node
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """``leases`` tells the end of each listed node's lease, ``dead`` who was declared dead.

    ``last_token`` is the greatest fencing token given out.
    """

    leases: Mapping[Node, int] = field(default_factory=dict)
    dead: frozenset[Node] = frozenset()
    owners: Mapping[Session, Owner] = field(default_factory=dict)
    last_token: int = 0

    def living(self, node: Node, now: int) -> bool:
        """Whether the node's lease runs."""
        return self.leases.get(node, 0) > now

    def may_take(self, node: Node, now: int) -> bool:
        """Whether the node may take calls, and own sessions."""
        return self.living(node, now) and node not in self.dead

    def gone(self, node: Node) -> bool:
        """Whether the node may be dispossessed: a lease that merely ran out takes nothing away."""
        return self.leases.get(node, 0) == 0

    def living_owner(self, session: Session) -> Owner | None:
        """The owner, unless it may be dispossessed."""
        owner = self.owners.get(session)
        return owner if owner is not None and not self.gone(owner.node) else None


def tenant_of(session: Session) -> str:
    """Whose session it is."""
    return session.partition(":")[0]


def beat(directory: Directory, node: Node, *, lease: int, now: int) -> tuple[Directory, Standing]:
    """Renew a node's lease, unless it was declared dead."""
    if node in directory.dead:
        return directory, Standing.FENCED
    standing = Standing.KNOWN if node in directory.leases else Standing.UNKNOWN
    return replace(directory, leases={**directory.leases, node: now + lease}), standing


def fence(directory: Directory, node: Node, *, certain: bool, now: int) -> tuple[Directory, bool]:
    """Declare a node dead; not one whose lease runs, unless it is ``certain`` that it is gone."""
    if directory.living(node, now) and not certain:
        return directory, False
    dead = directory.dead | {node}
    return replace(directory, dead=dead, leases={**directory.leases, node: 0}), True


def claim(directory: Directory, session: Session, node: Node, *, now_us: int) -> tuple[Directory, Owner]:
    """Make a node the owner, under a token greater than all before: the time keeps it so if the last is forgotten."""
    owner = Owner(node, max(directory.last_token + 1, now_us))
    owners = {**directory.owners, session: owner}
    return replace(directory, owners=owners, last_token=owner.token), owner


def release(directory: Directory, session: Session, owner: Owner) -> tuple[Directory, bool]:
    """Free a session that is the node's under this very token."""
    if directory.owners.get(session) != owner:
        return directory, False
    return _without(directory, {session}), True


def reclaim(
    directory: Directory, session: Session, node: Node, *, now: int, now_us: int
) -> tuple[Directory, Owner | None]:
    """Make a node the owner of what it held before; not if a living other is it, or the node itself may not."""
    if not directory.may_take(node, now):
        return directory, None
    owner = directory.owners.get(session)
    if owner is not None and owner.node == node:
        return directory, owner
    if owner is not None and not directory.gone(owner.node):
        return directory, None
    return claim(directory, session, node, now_us=now_us)


def bury(directory: Directory, node: Node) -> Directory:
    """Free all that a dead node owned, and take it off the list. It stays dead."""
    freed = _without(directory, {name for name, owner in directory.owners.items() if owner.node == node})
    return replace(freed, leases={name: end for name, end in freed.leases.items() if name != node})


def _without(directory: Directory, sessions: set[Session]) -> Directory:
    owners = {name: owner for name, owner in directory.owners.items() if name not in sessions}
    return replace(directory, owners=owners)
