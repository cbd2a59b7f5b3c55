"""Messages as they lie in a tool's queue, for tests of the scripts."""

from __future__ import annotations

from typing import Any

import orjson

from common.calls.head import MEMBER, Head
from common.domain.ids import InvocationId
from common.domain.rules import Retry

QUEUE = "tool.a"
FAR = 9_999_999_999_999
"""A deadline that no test sees pass (Redis ms)."""


def head(call: str = "i", **parts: Any) -> Head:
    """The head of a call for the client ``c`` of the tenant ``t``."""
    given: dict[str, Any] = {
        "deadline": FAR,
        "reply": "",
        "session": "t:c",
        "leave": Retry.UNSENT,
        "queue": QUEUE,
    }
    return Head(id=InvocationId(call), **given | parts)


def unstamped(of: Head | None = None, **members: Any) -> bytes:
    """As ``admit.lua`` and ``call_adopt.lua`` take it."""
    return orjson.dumps({MEMBER: (of or head()).text(), **members})


def stamped(of: Head | None = None, *, at: int = 1, circuit: int = 0, **members: Any) -> bytes:
    """As it lies in the queue."""
    return b'{"enqueued_at":%d,"circuit":%d,' % (at, circuit) + unstamped(of, **members)[1:]
