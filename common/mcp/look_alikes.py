"""Names that look like others: letters of other scripts, and digits, in the place of Latin letters.

Source of the pairs: Unicode UTS 39, confusables, of which only those are here that stand for letters, digits and
marks of MCP names. Width and style forms fall together by NFKC.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from common.mcp.hidden_text import without_hidden

_LOOKS_LIKE: Final = {
    "a": "\u0430\u0251\u03b1",
    "b": "\u0432\u042c\u044c\u03b2\u0392\u0412",
    "c": "\u0441\u03f2\u1d04\u0421",
    "d": "\u0501\u0257",
    "e": "\u0435\u04bd\u0454\u0395\u0415",
    "f": "\u0192\u03dd",
    "g": "\u0261\u0581",
    "h": "\u04bb\u0570\u041d\u0397",
    "l": "\u0456\u0131\u0269\u03b9\u0399\u0406|1I\u04cf\u01c0",
    "j": "\u0458\u03f3\u0408",
    "k": "\u03ba\u043a\u039a\u041a",
    "m": "\u043c\u041c\u039c",
    "n": "\u043f\u03b7\u0578\u039d",
    "o": "\u043e\u03bf\u043e\u03c30\u039f\u041e\u0585",
    "p": "\u0440\u03c1\u03a1\u0420",
    "q": "\u051b\u0563",
    "r": "\u0433\u1d26",
    "s": "\u0455\u0405\ua731",
    "t": "\u0442\u03c4\u03a4\u0422",
    "u": "\u03c5\u057d\u0446",
    "v": "\u03bd\u0475",
    "w": "\u0461\u03c9\u051d",
    "x": "\u0445\u03c7\u03a7\u0425",
    "y": "\u0443\u03b3\u0443\u03a5\u0423\u04af",
    "z": "\u1d22\u0396",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2212",
    ".": "\u2024",
    "_": "\u2017\u02cd",
}
_TABLE: Final = {ord(char): plain for plain, chars in _LOOKS_LIKE.items() for char in chars}


def skeleton(name: str) -> str:
    """What a name looks like; two names of one skeleton can be taken for each other."""
    return unicodedata.normalize("NFKC", without_hidden(name)).translate(_TABLE)


def look_alikes(names: Iterable[str], others: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Of these names those that look like one of ``others`` (skeleton -> name), and are another, with that one."""
    for name in names:
        other = others.get(skeleton(name))
        if other is not None and other != name:
            yield name, other
