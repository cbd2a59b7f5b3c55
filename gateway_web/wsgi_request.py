"""Reading a WSGI request."""

from __future__ import annotations

from flask import Request

from common.ports import RequestFacts


def lower_headers(request: Request) -> dict[str, str]:
    """The headers by lower-case name. WSGI joins repeated ones by a comma."""
    return {name.lower(): value for name, value in request.headers.items()}


def facts(request: Request) -> RequestFacts:
    """What an identity resolver sees."""
    return RequestFacts(
        headers=lower_headers(request), remote_address=request.remote_addr or "", path=request.path
    )
