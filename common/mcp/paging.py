"""Pages of a list. The cursor says where the next one begins, and of which list: of another it is refused.

Source: "Pagination" of each revision: cursors are opaque, and an invalid one is answered with INVALID_PARAMS.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from common.mcp.jsonrpc import INVALID_PARAMS, JsonRpcError

_DIGEST_BYTES = 8
_STALE = "Invalid params: cursor is not of this list as it stands; ask without one, from its beginning"


def page_of(items: Sequence[Any], cursor: object, size: int) -> tuple[Sequence[Any], str | None]:
    """The items behind ``cursor`` (None: from the beginning), at most ``size`` (0: all), and the cursor behind those.

    Raises JsonRpcError(INVALID_PARAMS) for a cursor that is none of ours, or of a list that has changed since: its
    items could be missed or seen twice.
    """
    if cursor is None and not size:
        return items, None
    digest = _digest(items)
    start = 0 if cursor is None else _start(cursor, digest)
    if not 0 <= start <= len(items):
        raise JsonRpcError(INVALID_PARAMS, _STALE)
    end = len(items) if not size else min(len(items), start + size)
    return items[start:end], None if end == len(items) else _cursor(end, digest)


def _digest(items: Sequence[Any]) -> bytes:
    return hashlib.sha256(orjson.dumps(list(items))).digest()[:_DIGEST_BYTES]


def _cursor(start: int, digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest + b"%d" % start).decode().rstrip("=")


def _start(cursor: object, digest: bytes) -> int:
    try:
        text = cursor if isinstance(cursor, str) and cursor.isascii() else ""
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise JsonRpcError(INVALID_PARAMS, _STALE) from None
    number = raw[_DIGEST_BYTES:]
    if raw[:_DIGEST_BYTES] != digest or not number.isdigit() or len(number) > 9:
        raise JsonRpcError(INVALID_PARAMS, _STALE)
    return int(number)
