"""What the journal says of a call, packed into short texts that scripts pass on without looking into them.

The web process packs what it knows of a call once; the message carries that text, and each script that moves the call
writes it into its event as the field ``call``. How a call ended is packed by the worker into the field ``end``. Readers
see the fields (:func:`unpacked`), never the texts. Parts are percent-encoded and stand between bars; a reader takes
what it knows of a longer or a shorter text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from common.domain.audit import EventKind
from common.domain.errors import ErrorCode, Status
from common.domain.ids import encode_part
from common.domain.invocation import ExecutionResult, Invocation

MEMBER = "audit"
"""The member of a message that holds the text of its call; it stands right behind the head."""
CALL = ("tenant", "client", "actor", "method", "capability", "request_id", "trace_id")
END = ("outcome", "error_code", "duration_ms", "attempt", "reason")
MAX_PART = 200
"""Longest part in characters, before it is encoded."""
_NAMED_BY: Mapping[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_NODE = re.compile(r"(.+):[0-9a-f]{8}")


def packed(parts: Iterable[str]) -> str:
    """Parts as one text of ASCII characters without spaces and quotes. Empty ones at the end are left out."""
    return "|".join(map(_part, parts)).rstrip("|")


def call_text(invocation: Invocation, trace_id: str = "", *, private: bool = False) -> str:
    """What is known of a call when it is accepted; ``private`` as for :func:`capability_of`.

    ``trace_id`` is that of the trace it is recorded in, else the client's.
    """
    caller, params = invocation.caller, invocation.params
    request = invocation.request_id
    return packed(
        (
            caller.tenant,
            caller.client,
            caller.subject,
            invocation.method,
            capability_of(invocation.method, params, private=private),
            "" if request is None else str(request),
            trace_id or trace_of(params),
        )
    )


def capability_of(method: str, params: Mapping[str, Any], *, private: bool = False) -> str:
    """The name or URI of what a request is for; empty for a request of another kind.

    With ``private`` a URI, which may hold a secret, is told by its digest.
    """
    value: object
    if method == "completion/complete":
        reference = params.get("ref")
        value = reference.get("name") or reference.get("uri") if isinstance(reference, Mapping) else None
    else:
        value = params.get(_NAMED_BY.get(method, ""))
    if not isinstance(value, str):
        return ""
    if private and ":" in value:
        return f"sha256:{hashlib.sha256(value.encode(errors='replace')).hexdigest()}"
    return value


def trace_of(params: Mapping[str, Any]) -> str:
    """The W3C trace id in ``_meta.traceparent``; empty if there is none."""
    meta = params.get("_meta")
    found = meta.get("traceparent") if isinstance(meta, Mapping) else None
    match = _TRACEPARENT.fullmatch(found) if isinstance(found, str) else None
    return match[1] if match else ""


def end_text(call: str, result: ExecutionResult, *, attempt: int) -> str:
    """Kind, call and end, as ``finish.lua`` takes them; empty for a call that is not audited (``call`` is empty)."""
    if not call:
        return ""
    failure = result.failure
    outcome, code, reason = result.status.value, "", ""
    if failure is not None and failure.rpc is not None:
        # What the backend says may hold an argument, so its number has to do.
        code = str(failure.rpc.get("code", ""))
    elif failure is not None:
        code, reason = failure.code.value, failure.message
        if failure.code is ErrorCode.INVOCATION_CANCELLED:
            outcome = "cancelled"
    end = packed((outcome, code, f"{result.duration_ms:.1f}", str(attempt), reason))
    return f"{end_kind(result).value} {call} {end}"


def end_kind(result: ExecutionResult) -> EventKind:
    """Which of the kinds of ends it is."""
    if result.answered:
        return EventKind.INVOCATION_COMPLETE
    failure = result.failure
    lost = failure is not None and failure.code is ErrorCode.WORKER_LOST
    return EventKind.INVOCATION_LOST if lost else EventKind.INVOCATION_FAILED


REFUSED_AS: Mapping[Status, str] = {Status.DENIED: "deny", Status.THROTTLED: "throttle"}
"""Outcome of a decision by the status of the refusal; any other is ``error``."""


def unpacked(fields: Mapping[str, str]) -> dict[str, str]:
    """The fields of an event as they are read: its texts taken apart, and the worker of its node."""
    found = dict(fields)
    for name, names in (("call", CALL), ("end", END)):
        if text := found.pop(name, ""):
            # What stands in a field of its own counts, and has its place.
            found = {**found, **_parts(text, names), **found}
    if (node := found.get("node")) and (named := _NODE.fullmatch(node)):
        found.setdefault("worker", named[1])
    return found


def _part(value: str) -> str:
    short = value if len(value) <= MAX_PART else value[: MAX_PART - 1] + "…"
    try:
        return encode_part(short)
    except UnicodeEncodeError:
        return encode_part(short.encode("utf-8", errors="replace").decode("utf-8"))


@lru_cache(maxsize=4096)
def _parts(text: str, names: tuple[str, ...]) -> Mapping[str, str]:
    """Remembered, since the three events of a call hold the same text."""
    pairs = zip(names, text.split("|"), strict=False)
    return {name: _decoded(value) for name, value in pairs if value}


def _decoded(part: str) -> str:
    return unquote(part, errors="replace") if "%" in part else part
