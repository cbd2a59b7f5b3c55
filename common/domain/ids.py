"""Identifiers: any non-empty string, encoded wherever several of them share one name.

An id never gets a character rule of its own: e-mail addresses, ``auth0|123`` and URLs are all good ids. What
must be safe is the place an id is put into (a Redis key, a queue name), so it is percent-encoded there. The
separators used in such places are never among the characters left bare, so two different lists of parts can
never give the same name: (``a-b``, ``c``) and (``a``, ``b-c``) stay apart.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NewType
from urllib.parse import quote, unquote

from common.domain.errors import InvalidRequest

TenantId = NewType("TenantId", str)
ClientId = NewType("ClientId", str)
ToolId = NewType("ToolId", str)
InvocationId = NewType("InvocationId", str)
McpSessionId = NewType("McpSessionId", str)
NodeId = NewType("NodeId", str)

MAX_ID_LENGTH = 512
"""Longest id in characters: a bound on key and queue names, far above any real id."""

QUEUE_PREFIX = "tool."
_PLAIN = re.compile(r"[A-Za-z0-9_.~-]*")
"""What percent-encoding leaves as it is."""


def checked_id(value: object, *, field: str) -> str:
    """Return ``value`` as an id; raise :class:`InvalidRequest` naming ``field`` if it cannot be one."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} must be a string, not {type(value).__name__}", field=field)
    if not value:
        raise InvalidRequest(f"{field} must not be empty", field=field)
    if len(value) > MAX_ID_LENGTH:
        raise InvalidRequest(f"{field} is longer than {MAX_ID_LENGTH} characters", field=field)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{field} holds a lone surrogate and has no UTF-8 form", field=field) from error
    return value


def encode_part(value: str) -> str:
    """Percent-encode an id so that it can stand between separators (``:``, ``,``, ``|`` are all encoded)."""
    return value if _PLAIN.fullmatch(value) else _quoted(value)


@lru_cache(maxsize=4096)
def _quoted(value: str) -> str:
    return quote(value, safe="")


def decode_part(part: str) -> str:
    """Inverse of :func:`encode_part`."""
    return unquote(part, errors="strict") if "%" in part else part


@lru_cache(maxsize=4096)
def queue_of(tool: ToolId) -> str:
    """Name of the tool's Celery queue, which is also its Redis list: ``tool.<encoded id>``."""
    return QUEUE_PREFIX + encode_part(tool)


@lru_cache(maxsize=4096)
def tool_of(queue: str) -> ToolId | None:
    """The tool whose queue this is; None for a queue that is not a tool's."""
    if not queue.startswith(QUEUE_PREFIX):
        return None
    try:
        tool = ToolId(decode_part(queue.removeprefix(QUEUE_PREFIX)))
    except UnicodeDecodeError:
        return None
    # A tool has one queue: another spelling of its name is nobody's.
    return tool if tool and queue_of(tool) == queue else None
