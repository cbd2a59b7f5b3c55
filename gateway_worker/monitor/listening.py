"""What reads Flower's requests, before anybody knows who sends them: little of each, and not for long."""

from __future__ import annotations

from typing import Any

from tornado.httpserver import HTTPServer

MOST_BYTES = 64 << 10
"""Of a request's head, and of its body: Flower's pages send a form."""
IDLE_TIMEOUT = 60.0
"""Seconds that a connection may be without a request, and a body may take to come."""


def server_of(application: Any) -> HTTPServer:
    """A server for it, which listens to nothing yet."""
    return HTTPServer(
        application,
        max_header_size=MOST_BYTES,
        max_body_size=MOST_BYTES,
        body_timeout=IDLE_TIMEOUT,
        idle_connection_timeout=IDLE_TIMEOUT,
    )
