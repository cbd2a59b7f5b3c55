"""Whose a resource is, where several tools share an endpoint.

URIs reach clients as the backends gave them, also inside results, so a URI alone must find its tool: by the lists of
resources, then by the templates. Where two tools give the same URI, the first of them has it, and the others' stands
behind their tool's id: ``canalgate://<tool>/<uri>``, both percent-encoded.
"""

import re
from typing import Final
from urllib.parse import quote, unquote

SCHEME: Final = "canalgate://"
MAX_LENGTH: Final = 2048
"""Characters of a template or a URI beyond which they are not compared: the work grows with both."""

_EXPRESSION: Final = re.compile(r"\{([+#./;?&]?)[^{}]*\}")
_NOT_IN: Final = {"": "/?#", "+": "", "#": "", ".": "/?#", "/": "?#", ";": "/?#", "?": "#", "&": "#"}
"""What an expression of RFC 6570 cannot expand to, by its operator, whatever its variables are."""


def qualified(tool_id: str, uri: str) -> str:
    """The URI under which a resource of a tool can always be asked for."""
    return f"{SCHEME}{quote(tool_id, safe='')}/{quote(uri, safe='')}"


def split(uri: str) -> tuple[str, str] | None:
    """The tool's id and its own URI behind a qualified one; None for any other."""
    tool, slash, own = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not tool or not slash or not own:
        return None
    try:
        return unquote(tool, errors="strict"), unquote(own, errors="strict")
    except UnicodeDecodeError:
        return None


def matches(template: str, uri: str) -> bool:
    """Whether a URI may have come from a template (RFC 6570). Its variables are not told apart."""
    if len(template) > MAX_LENGTH or len(uri) > MAX_LENGTH:
        return False
    # All places up to which the URI may be explained so far: unlike a regular expression, no template makes it slow.
    places, end = {0}, 0
    for found in _EXPRESSION.finditer(template):
        places = _past(places, uri, template[end : found.start()])
        places = _expanded(places, uri, found[1])
        end = found.end()
        if not places:
            return False
    return len(uri) in _past(places, uri, template[end:])


def _past(places: set[int], uri: str, literal: str) -> set[int]:
    return {place + len(literal) for place in places if uri.startswith(literal, place)}


def _expanded(places: set[int], uri: str, operator: str) -> set[int]:
    """The places behind what an expression may have become; with all variables undefined, it is nothing."""
    if operator in {"", "+"}:
        return _within(places, uri, _NOT_IN[operator])
    return places | _within(_past(places, uri, operator), uri, _NOT_IN[operator])


def _within(places: set[int], uri: str, excluded: str) -> set[int]:
    reached, going = set(), False
    for place in range(min(places, default=len(uri)), len(uri) + 1):
        going = going or place in places
        if going:
            reached.add(place)
        going = going and not (place < len(uri) and uri[place] in excluded)
    return reached
