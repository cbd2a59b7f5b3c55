"""Characters that a model reads and a person does not see, in what backends say of themselves.

Source: Unicode 16, categories Cc, Cf and Co, default ignorable code points, variation selectors; UTS 51 for the joiners
and selectors that emoji need, which are left alone, as is a joiner between letters of the scripts that write with it.
Text is judged by one compiled expression, in time that grows with its length alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_EMOJI: Final = (
    "\u00a9\u00ae\u203c\u2049\u20e3\u2122\u2139\u2190-\u2bff\u3030\u303d"
    "\u3297\u3299\ufe0f\U0001f000-\U0001faff"
)
_JOINING: Final = (
    "\u0620-\u06d3\u0750-\u077f\u08a0-\u08c7\u0900-\u0dff\u1000-\u109f\u1780-\u17b3\u1820-\u1878"
)
_IDEOGRAPH: Final = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

_SEQUENCE: Final = r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]?|\x1b\][^\x07\x1b]{0,1024}(?:\x07|\x1b\\)?"
_CONTROL: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)"
_BIDI: Final = "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_TAG: Final = "[\U000e0000-\U000e007f]"
_SELECTOR: Final = (
    f"(?<![{_EMOJI}0-9#*])[\ufe0e\ufe0f]|(?<=\ufe0f)[\ufe0e\ufe0f]|(?<![{_IDEOGRAPH}\u2200-\u22ff])[\ufe00-\ufe02]"
    f"|[\ufe03-\ufe0d]|(?<![{_IDEOGRAPH}])[\U000e0100-\U000e01ef]"
)
_JOINER: Final = (
    f"(?<![{_EMOJI}])(?<![{_JOINING}])\u200d|\u200d(?![{_EMOJI}{_JOINING}])"
    f"|(?<![{_JOINING}])\u200c|\u200c(?![{_JOINING}])"
)
_INVISIBLE: Final = (
    "[\u00ad\u034f\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2065"
    "\u206a-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0080-\U000e00ff\U000e01f0-\U000e0fff]"
)
_PRIVATE: Final = "[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
_SURROGATE: Final = "[\ud800-\udfff]"

_HIDDEN: Final = re.compile(
    f"(?P<escape_sequence>{_SEQUENCE})|(?P<control>{_CONTROL})|(?P<bidi_control>{_BIDI})|(?P<tag>{_TAG})"
    f"|(?P<variation_selector>{_SELECTOR})|(?P<joiner>{_JOINER})|(?P<invisible>{_INVISIBLE})"
    f"|(?P<private_use>{_PRIVATE})|(?P<surrogate>{_SURROGATE})"
)
_ESCAPED_CONTROL: Final = re.compile(r"\\u00[01]|\\[bfr]|\x7f")
"""How JSON writes control characters; also a text that merely looks so, which is then looked at closely."""

PROSE: Final = frozenset({"title", "description", "$comment", "instructions"})
"""Members whose text is for reading, by people and models: nothing depends on its every character."""


class Finding(NamedTuple):
    """Something hidden: where (a path of members, ``/key`` for a key itself), of which kind, and its code point."""

    path: str
    kind: str
    char: str

    def __str__(self) -> str:
        return f"{self.kind.replace('_', ' ')} U+{ord(self.char):04X} at {self.path}"


def is_plain_json(written: bytes) -> bool:
    """Whether it is certain, at a glance, that nothing is hidden in an item of JSON as orjson writes it."""
    if not written.isascii():
        return False
    return _ESCAPED_CONTROL.search(written.decode("ascii")) is None


def hidden_in(item: Any) -> Iterator[Finding]:
    """All that is hidden in the strings of an item, keys included."""
    left: list[tuple[str, Any]] = [("", item)]
    while left:
        path, value = left.pop()
        if isinstance(value, str):
            for found in _HIDDEN.finditer(value):
                yield Finding(path or "/", str(found.lastgroup), found[0][0])
        elif isinstance(value, dict):
            for key, inner in value.items():
                at = f"{path}/{visible(key)}"
                yield from (Finding(at, str(f.lastgroup), f[0][0]) for f in _HIDDEN.finditer(key))
                left.append((at, inner))
        elif isinstance(value, list):
            left.extend((f"{path}/{index}", inner) for index, inner in enumerate(value))


def without_hidden(text: str) -> str:
    """The text without what is hidden in it; of escape sequences nothing stays."""
    # What stood on both sides of something hidden may together be something hidden.
    for _ in range(4):
        cleaned = _HIDDEN.sub("", text)
        if cleaned == text:
            return text
        text = cleaned
    return "".join(char for char in text if not _HIDDEN.search(char))


def cleaned(item: Any, prose: frozenset[str] = PROSE) -> Any:
    """The item with nothing hidden in its prose. What is hidden elsewhere stays: names and values would be others."""
    if isinstance(item, dict):
        return {
            key: without_hidden(value) if key in prose and isinstance(value, str) else cleaned(value, prose)
            for key, value in item.items()
        }
    if isinstance(item, list):
        return [cleaned(value, prose) for value in item]
    return item


def visible(text: str) -> str:
    """The text with everything hidden written out: ``<U+202E RIGHT-TO-LEFT OVERRIDE>``."""
    while _HIDDEN.search(text):
        # What is written out may leave what stood before it alone: a carriage return, a joiner.
        text = _HIDDEN.sub(lambda found: "".join(map(_written, found[0])), text)
    return text


def _written(char: str) -> str:
    if char.isprintable() and char.isascii():
        return char
    name = unicodedata.name(char, "")
    return f"<U+{ord(char):04X}{' ' if name else ''}{name}>"
