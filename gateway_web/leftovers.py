"""What a client still sends of a request that was answered before it was read: how much of it is taken.

A refusal comes without a look at the body. A connection that is kept needs the rest out of the way, and one that is
closed too early would be reset before its client has read the answer; so some is taken. gunicorn takes all of it,
however much it is, and a client that sends fast enough would keep every other one of the process from its turn.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
from gunicorn.http.parser import Parser, RequestParser

PIECE = 256 * 1024
"""Bytes after which others get their turn."""
WITHIN = 30.0
"""Seconds for all of it."""


def bound_leftovers(most: int) -> None:
    """Have the connections of this process closed where more than ``most`` bytes, or longer ones, are left."""

    def finish_body(parser: Any, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """As gunicorn has it; False: the connection is to be closed."""
        if deadline is not None or max_bytes is not None:
            return bool(Parser.finish_body(parser, deadline, max_bytes))
        body = getattr(parser.mesg, "body", None)
        if body is None:
            return True
        left, until = most, time.monotonic() + WITHIN
        while left > 0 and time.monotonic() < until and not body.failed:
            try:
                data = body.read(PIECE)
            except TimeoutError:
                return False
            if not data:
                return True
            left -= len(data)
            gevent.sleep(0)
        return False

    RequestParser.finish_body = finish_body
