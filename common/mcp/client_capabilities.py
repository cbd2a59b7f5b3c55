"""What a client must have declared before a server may ask it for something.

Source: "Sampling", "Elicitation" and "Roots" of each revision: servers MUST NOT ask for what was not declared.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

_NEEDED: Final[Mapping[str, str]] = {
    "elicitation/create": "elicitation",
    "roots/list": "roots",
    "sampling/createMessage": "sampling",
}


_FLAGS: Final[Mapping[str, tuple[str, ...]]] = {
    "elicitation": ("form", "url"),
    "roots": (),
    "sampling": ("context", "tools"),
}
"""The parts of each capability that say what may be asked."""


EVERY: Final[Mapping[str, Any]] = {name: {part: {} for part in parts} for name, parts in _FLAGS.items()}
"""What a client declares that can be asked for everything."""


def interactive(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What of a client's capabilities lets servers ask it: known parts alone, so that there are few such profiles.

    With them goes whether it tells when its roots change, since a backend that is not told so need not listen for it.
    """
    found: dict[str, Any] = {}
    for name, parts in _FLAGS.items():
        has = declared.get(name)
        if isinstance(has, dict):
            found[name] = {part: {} for part in parts if isinstance(has.get(part), dict)}
            if name == "roots" and has.get("listChanged") is True:
                found[name] = {"listChanged": True}
    return found


def profile_of(declared: Mapping[str, Any]) -> str:
    """The same as a text: equal for clients that can be asked for the same; empty for one that cannot be asked."""
    found = interactive(declared)
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode() if found else ""


def undeclared(method: str, params: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any] | None:
    """The capabilities that a server's request needs and the client has not declared; None if it may be asked.

    A method that servers have not got needs what nobody can declare: its own name.
    """
    name = _NEEDED.get(method)
    if name is None:
        return {method: {}}
    has = declared.get(name)
    if not isinstance(has, dict):
        return {name: {}}
    part = _part(name, params, has)
    return None if part is None or isinstance(has.get(part), dict) else {name: {part: {}}}


def _part(name: str, params: Mapping[str, Any], has: Mapping[str, Any]) -> str | None:
    """The part of a capability that a request needs (since 2025-11-25); None if none beyond the whole."""
    if name == "sampling":
        return "tools" if "tools" in params or "toolChoice" in params else None
    if name == "elicitation":
        mode = params.get("mode", "form")
        # "An empty capabilities object is equivalent to declaring support for form mode only."
        return None if mode == "form" and "url" not in has else str(mode)
    return None
