"""Words in what a backend says of itself that speak to a model and not to a person: a sign of tool poisoning.

A short list of what published attacks have in common. It proves nothing, and who knows it writes around it: what is
found is told to operators and blocks nothing. Each expression is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from common.mcp.hidden_text import PROSE

MARKERS: Final = {
    "a tag that poses as the system's": (
        r"<\s{0,3}/?\s{0,3}(?:important|system|instructions?|secret|hidden|assistant|admin|critical)\b[^<>]{0,40}>"
    ),
    "a chat template": r"<\|(?:im_start|im_end|system|user|assistant|endoftext)\|>|\[/?INST\]|<<SYS>>",
    "other instructions are to be ignored": (
        r"\b(?:ignore|disregard|forget|override)\s{1,5}(?:(?:all|any|the|your|of)\s{1,5}){0,3}"
        r"(?:previous|prior|above|earlier|other)\s{1,5}(?:instructions?|prompts?|rules?|messages?|tools?)\b"
    ),
    "something is kept from the user": (
        r"\b(?:do\s{1,5}not|don't|never|without)\s{1,5}"
        r"(?:tell(?:ing)?|inform(?:ing)?|mention(?:ing)?|reveal(?:ing)?|show(?:ing)?|notify(?:ing)?)\b"
        r"[^.\n]{0,40}\b(?:user|human|anyone|anybody)\b"
    ),
    "it wants to be read before other tools are used": (
        r"\b(?:before|instead\s{1,5}of)\s{1,5}(?:using|calling|invoking|running)\s{1,5}(?:this|any|other|all)\b"
        r"[^.\n]{0,60}\b(?:must|always|first|have\s{1,5}to)\b"
    ),
    "a file with credentials": r"[~/]/?\.(?:ssh|aws|gnupg|kube)/|\bid_(?:rsa|ed25519)\b|\.cursor/mcp\.json\b",
}
_MARKERS: Final = re.compile(
    "|".join(f"(?P<m{number}>{text})" for number, text in enumerate(MARKERS.values())), re.IGNORECASE
)
_WORDS: Final = tuple(MARKERS)


def markers_in(item: Any) -> Iterator[str]:
    """What is found in the prose of an item of JSON, each kind once."""
    seen: set[str] = set()
    left = [item]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in PROSE and isinstance(inner, str):
                    for found in _MARKERS.finditer(inner):
                        kind = _WORDS[int(str(found.lastgroup)[1:])]
                        if kind not in seen:
                            seen.add(kind)
                            yield kind
                else:
                    left.append(inner)
        elif isinstance(value, list):
            left.extend(value)
