"""Pages of lists: ``limit`` and an opaque ``cursor`` that says behind which item the next page begins."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import BaseModel, Field

from common.domain.errors import InvalidRequest

MOST = 500
T = TypeVar("T")


class PageQuery(BaseModel, extra="forbid"):
    """Which page."""

    limit: int = Field(default=100, ge=1, le=MOST, description="Most items on the page.")
    cursor: str | None = Field(
        default=None, max_length=4096, description="`next_cursor` of the page before; absent: the first page."
    )


def page(items: Sequence[T], query: PageQuery, key: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """The items of a page, and the cursor of the next one. ``items`` are in the order of ``key``.

    What comes or goes between two pages moves none of the others. Raises :class:`InvalidRequest`.
    """
    after = None if query.cursor is None else decoded(query.cursor)
    rest = [item for item in items if after is None or key(item) > after]
    found = rest[: query.limit]
    return found, encoded(key(found[-1])) if len(rest) > len(found) else None


def encoded(key: str) -> str:
    """A key as a cursor."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def decoded(cursor: str) -> str:
    """Inverse of :func:`encoded`. Raises :class:`InvalidRequest`."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            "cursor is none that a page has given; leave it out for the first page", field="query.cursor"
        ) from error
