"""What a backend says of itself, looked at before clients are given it.

Hidden characters, words to a model, names that look like others: see
docs/decisions/0019-content-guards.md. All of it is work for a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import orjson

from common.domain.capabilities import LISTS, Capabilities, Flag, Quarantined
from common.domain.content_rules import HiddenCharacters
from common.domain.pins import Offered, Place
from common.mcp.hidden_text import PROSE, cleaned, hidden_in, is_plain_json, visible
from common.mcp.listings import LISTINGS, RESOURCE_TEMPLATES, RESOURCES, Listing
from common.mcp.look_alikes import look_alikes, skeleton
from common.mcp.markers import markers_in
from common.registry.records import Entry
from common.registry.withheld import SERVER

LARGEST = 256 * 1024
"""Bytes of a definition; a larger one is not looked at, and given to nobody."""
MOST_FLAGS = 100
"""Of one tool; beyond them nothing more is told."""
_TOLD = 3
_NAME = 200
_CHANGING = frozenset({"size", "annotations"})
"""Members of a resource that change with what is in it, and say nothing to a model."""
_DISPLAYED = PROSE | {"name"}
"""A resource is asked for by its URI: its name is for reading."""


class Examined(NamedTuple):
    """Items as clients may be given them, those that they may not, and what an operator should look at."""

    items: tuple[Mapping[str, Any], ...]
    refused: tuple[Quarantined, ...]
    flags: tuple[Flag, ...]


def examined(listing: Listing, items: Iterable[Mapping[str, Any]], hidden: HiddenCharacters) -> Examined:
    """The items of one list, by the rule for hidden characters."""
    prose = _DISPLAYED if listing in (RESOURCES, RESOURCE_TEMPLATES) else PROSE
    good: list[Mapping[str, Any]] = []
    refused: list[Quarantined] = []
    flags: list[Flag] = []
    for item in items:
        name = item[listing.key]
        kept, why = _kept(item, hidden, prose)
        if kept is None:
            refused.append(Quarantined(list=listing.member, name=name, reason=why, refused=True))
            continue
        good.append(kept)
        told = [why] if why else []
        flags += (
            Flag(list=listing.member, name=visible(name[:_NAME]), reason=reason)
            for reason in (*told, *markers_in(kept))
        )
    return Examined(tuple(good), tuple(refused), tuple(flags[:MOST_FLAGS]))


def with_server_examined(found: Capabilities, hidden: HiddenCharacters) -> Capabilities:
    """The same for what the server says of itself: its instructions, its names."""
    info, flags, refused = dict(found.server_info), list(found.flags), list(found.quarantined)
    instructions = found.instructions
    if instructions is not None:
        kept, why = _kept({SERVER: instructions}, hidden, PROSE)
        instructions = None if kept is None else kept[SERVER]
        if kept is None:
            refused.append(Quarantined(list=SERVER, name="", reason=why, refused=True))
        else:
            told = [why] if why else []
            flags += (Flag(list=SERVER, name="", reason=word) for word in (*told, *markers_in(kept)))
    kept_info, why = _kept(info, hidden, frozenset(info))
    if why:
        flags.append(Flag(list=SERVER, name="serverInfo", reason=why))
    return replace(
        found,
        instructions=instructions,
        server_info={} if kept_info is None else kept_info,
        flags=tuple(flags[:MOST_FLAGS]),
        quarantined=tuple(refused),
    )


def _kept(
    item: Mapping[str, Any], hidden: HiddenCharacters, prose: frozenset[str]
) -> tuple[Mapping[str, Any] | None, str]:
    """The item as it may be given (None: not at all), and why it is not as it was."""
    try:
        written = orjson.dumps(item)
        if len(written) > LARGEST:
            return None, f"its definition has more than {LARGEST} bytes"
        if is_plain_json(written):
            return item, ""
        if not (why := _told(item)):
            return item, ""
        if hidden is HiddenCharacters.WARN:
            return item, why
        if hidden is HiddenCharacters.REJECT:
            return None, why
        stripped = cleaned(item, prose)
        left = _told(stripped)
    except (RecursionError, orjson.JSONEncodeError):
        return None, "its definition is nested too deeply"
    return (None, left) if left else (stripped, f"taken out: {why}")


def _told(item: Mapping[str, Any]) -> str:
    """The first things that are hidden in an item, in words."""
    return "; ".join(str(found)[:_NAME] for found in islice(hidden_in(item), _TOLD))


def offered(found: Capabilities) -> dict[Place, Offered]:
    """All definitions by their places, as they are pinned: canonical JSON, and its SHA-256.

    What of a resource changes with its contents is left out.
    """
    places: dict[Place, Offered] = {}
    for listing in LISTINGS:
        passing = _CHANGING if listing is RESOURCES else frozenset()
        for item in getattr(found, LISTS[listing.member]):
            pinned = {name: value for name, value in item.items() if name not in passing}
            places[listing.member, item[listing.key]] = _offered(pinned)
    if found.instructions is not None:
        places[SERVER, ""] = _offered({SERVER: found.instructions})
    return places


def _offered(definition: Mapping[str, Any]) -> Offered:
    text = orjson.dumps(definition, option=orjson.OPT_SORT_KEYS)
    return Offered(digest=hashlib.sha256(text).hexdigest(), text=text)


def resembling(entry: Entry, found: Capabilities, others: Iterable[Entry]) -> Iterator[Flag]:
    """Names of this tool that can be taken for names of others, and so may draw what is meant for them."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for other in others:
        if other.id != entry.id:
            ids.setdefault(skeleton(other.id), other.id)
            for offer in other.known.tools if other.known else ():
                names.setdefault(skeleton(str(offer["name"])), str(offer["name"]))
    for name, other_id in look_alikes([entry.id], ids):
        yield Flag(list="id", name=visible(name), reason=f"looks like the tool {visible(other_id)!r}")
    for name, other_name in look_alikes([str(offer["name"]) for offer in found.tools], names):
        reason = f"looks like {visible(other_name[:_NAME])!r} of another tool"
        yield Flag(list="tools", name=visible(name[:_NAME]), reason=reason)
