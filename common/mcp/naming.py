"""Names of capabilities where several tools share one endpoint: `<tool>__<name>`.

The protocol wants names of 1 to 128 characters from `A-Za-z0-9_.-`. Tool ids may be any text, so a character
outside that set is exposed as `_xHHHH_`, its code point in four to six upper-case hexadecimal digits (the
rule of ISO 9075-14 for XML names), and an underscore that would itself begin such a sequence as `_x005F_`:
`my tool` -> `my_x0020_tool`.
"""

import re
from collections.abc import Collection
from typing import Final

SEPARATOR: Final = "__"
MAX_NAME_LENGTH: Final = 128

_LONG_NAME: Final = 512
_LONGEST_ESCAPE: Final = len("_x10FFFF_")

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]*")
_NEEDS_ESCAPE: Final = re.compile(r"[^A-Za-z0-9_.-]|_(?=x[0-9A-F]{4})")
_ESCAPED: Final = re.compile(r"_x([0-9A-F]{4,6})_")


def exposed_id(tool_id: str) -> str:
    """The tool id as clients see it; different ids never look alike."""
    if "_x" not in tool_id and _NAME.fullmatch(tool_id):
        return tool_id
    return _NEEDS_ESCAPE.sub(lambda found: f"_x{ord(found[0]):04X}_", tool_id)


def prefixed(tool_id: str, name: str) -> str:
    """The name under which the capability `name` of a tool appears where tools share an endpoint."""
    return exposed_id(tool_id) + SEPARATOR + name


def split(name: str, tool_ids: Collection[str]) -> tuple[str, str] | None:
    """The tool id and the tool's own name behind a prefixed name; None if it belongs to none of `tool_ids`.

    Of several tools whose prefix fits, the one with the longest id wins. Give `tool_ids` as a set or mapping:
    the work grows with the separators in the name, not with the number of tools.
    """
    # Every attempt costs the length of the prefix, so hostile names are only searched where an id can end.
    reach = len(name)
    if reach > _LONG_NAME:
        reach = max(map(len, tool_ids), default=0) * _LONGEST_ESCAPE + len(SEPARATOR)
    at = name.rfind(SEPARATOR, 0, reach)
    while at >= 0:
        tool_id = _id_of(name[:at])
        if tool_id is not None and tool_id in tool_ids:
            return tool_id, name[at + len(SEPARATOR) :]
        # Separators may overlap ("a___b"), so the next search ends one character further left, not two.
        at = name.rfind(SEPARATOR, 0, at + len(SEPARATOR) - 1)
    return None


def clash(tool_ids: Collection[str]) -> tuple[str, str] | None:
    """Two tool ids whose prefixed names could be confused (`a` and `a__b`, `a` and `a_`), else None.

    With both registered, the capability `b__c` of `a` could not be told from the capability `c` of `a__b`.
    """
    prefixes = {prefixed(tool_id, ""): tool_id for tool_id in tool_ids}
    for prefix, tool_id in prefixes.items():
        at = prefix.find(SEPARATOR)
        while 0 <= at < len(prefix) - len(SEPARATOR):
            other = prefixes.get(prefix[: at + len(SEPARATOR)])
            if other is not None:
                return other, tool_id
            at = prefix.find(SEPARATOR, at + 1)
    return None


def name_problem(name: str) -> str | None:
    """Why a client may refuse this name, else None. The protocol says SHOULD, so such names are served."""
    if not name:
        return "the name is empty"
    if not _NAME.fullmatch(name):
        return "the name has characters outside A-Z a-z 0-9 _ . -"
    if len(name) > MAX_NAME_LENGTH:
        return f"the name has {len(name)} characters, more than {MAX_NAME_LENGTH}"
    return None


def _id_of(exposed: str) -> str | None:
    """The tool id behind an exposed id; None if no id is exposed so, for one id has one spelling."""
    if "_x" not in exposed:
        return exposed if _NAME.fullmatch(exposed) else None
    try:
        tool_id = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), exposed)
    except ValueError:  # beyond the last code point
        return None
    return tool_id if exposed_id(tool_id) == exposed else None
