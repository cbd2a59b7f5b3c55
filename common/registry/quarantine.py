"""Definitions that are not approved: for operators to look at, to approve and to reject."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import structlog

from common.domain.audit import EventKind
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.pins import Pin, Place, approve, reject
from common.mcp.hidden_text import visible
from common.mcp.listings import LISTINGS
from common.registry.pins import PinStore, members_changed
from common.registry.records import Entry
from common.registry.registry import Registry
from common.registry.withheld import SERVER
from common.store.client import Client
from common.store.keys import Keys

log = structlog.get_logger(__name__)

KINDS = (*(listing.member for listing in LISTINGS), SERVER)
"""Lists whose definitions are pinned; the server's instructions have an empty name."""
CONTEXT = 3
MOST_LINES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A definition that is not approved. ``at`` is in ms of Redis time.

    ``standing`` is a word of :class:`~common.domain.pins.Standing`; ``withheld`` says whether clients are not given it;
    ``changed`` names the members in which it differs from the approved one.
    """

    tool: ToolId
    kind: str
    name: str
    digest: str
    approved: str | None
    at: int
    standing: str
    withheld: bool
    changed: tuple[str, ...]


class Quarantine:
    """Of one gateway. Fails closed: without Redis every method raises ``StoreUnavailable``."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._pins = PinStore(client, keys)
        self._registry = Registry(client, keys)

    def waiting(self, tool: ToolId | None = None) -> list[Waiting]:
        """All that is not approved, of one tool or of all whose pins can be read. Raises :class:`ToolNotFound`."""
        if tool is not None:
            return list(self._waiting_of(self._registry.get(tool)))
        return [found for entry in self._registry.entries() for found in self._readable_of(entry)]

    def _readable_of(self, entry: Entry) -> list[Waiting]:
        """The same of one tool, or nothing if its pins cannot be read: they must not hide those of all others."""
        try:
            return list(self._waiting_of(entry))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            log.error("pins_unreadable", tool=entry.id, error=repr(error))
            return []

    def _waiting_of(self, entry: Entry) -> Iterator[Waiting]:
        pins = self._pins.read(entry.id)
        for place in sorted(pins.waiting):
            before, pin = pins.approved.get(place), pins.waiting[place]
            yield Waiting(
                tool=entry.id,
                kind=place[0],
                name=place[1],
                digest=pin.digest,
                approved=None if before is None else before.digest,
                at=pin.at,
                standing=pin.word,
                withheld=entry.tool.content.withholds,
                changed=members_changed(before, pin),
            )

    def difference(self, tool: ToolId, kind: str, name: str) -> list[str]:
        """What waits there, as lines of a unified difference to what was approved; whatever is hidden is written out.

        Raises :class:`ToolNotFound`, and :class:`InvalidRequest` if nothing waits there.
        """
        self._registry.get(tool)
        pins = self._pins.read(tool)
        place = _place(kind, name)
        waits = pins.waiting.get(place)
        if waits is None:
            raise InvalidRequest(f"nothing waits for approval at {kind} {name[:200]!r}", field="name")
        before = pins.approved.get(place)
        names = (
            "approved" if before is None else f"approved {before.digest}",
            f"{waits.word} {waits.digest}",
        )
        found = difflib.unified_diff(_lines(before), _lines(waits), *names, lineterm="", n=CONTEXT)
        return list(found)[:MOST_LINES]

    def approve(self, tool: ToolId, kind: str, name: str, digest: str, *, actor: str) -> None:
        """Approve what waits there, if it is still the one with this digest (or beginning of one).

        Clients are given it at once. Raises :class:`ToolNotFound`, :class:`InvalidRequest`, :class:`VersionConflict`.
        """
        self._registry.get(tool)
        place = _place(kind, name)
        self._pins.decide(
            tool,
            EventKind.DEFINITION_APPROVED,
            lambda pins, now: approve(pins, place, digest, by=actor, now=now),
            actor=actor,
        )

    def reject(self, tool: ToolId, kind: str, name: str, digest: str, *, actor: str) -> None:
        """Say no to what waits there: it stays withheld until the tool has another definition, or it is approved.

        Raises as :meth:`approve`, and :class:`InvalidRequest` for a tool of which nothing is withheld.
        """
        if not self._registry.get(tool).tool.content.withholds:
            raise InvalidRequest(
                f"nothing of tool {tool!r} is withheld, so a rejection would change nothing; "
                "set pinning: quarantine, or disable the tool",
                field="pinning",
            )
        place = _place(kind, name)
        self._pins.decide(
            tool,
            EventKind.DEFINITION_REJECTED,
            lambda pins, now: reject(pins, place, digest, now=now),
            actor=actor,
        )


def _place(kind: str, name: str) -> Place:
    if kind not in KINDS:
        raise InvalidRequest(f"kind must be one of {', '.join(KINDS)}", field="kind")
    return kind, name


def _lines(pin: Pin | None) -> list[str]:
    if pin is None:
        return []
    if not pin.text:
        return ["(the text was not kept; its digest is)"]
    text = orjson.dumps(orjson.loads(pin.text), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode()
    # JSON escapes the controls below 32, and visible() writes out all else that is hidden.
    return [visible(line) for line in text.split("\n")]
