"""What of a request could be a credential, and that there is at most one of it."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from common.ports import RequestFacts
from gateway_web.identity.refusals import Ambiguous, Reason

_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_ONCE = ("authorization", "x-api-key")
_IN_QUERY = frozenset(
    {
        "access_token",
        "id_token",
        "token",
        "bearer",
        "jwt",
        "authorization",
        "api_key",
        "apikey",
        "api-key",
        "x-api-key",
    }
)
"""Names under which clients have been seen to put credentials into a URL, from where they get into logs."""


def check_once(request: RequestFacts) -> None:
    """Raise :class:`Ambiguous` for a credential that was sent twice, in two ways, or in the URL.

    WSGI joins repeated headers by a comma, which no credential holds.
    """
    headers = request.headers
    for name in _ONCE:
        if "," in headers.get(name, ""):
            raise Ambiguous(
                f"the header {_SHOWN[name]} was given twice, or holds a comma", field=_SHOWN[name]
            )
    token, key = bearer(request), api_key_header(request)
    if token and key and token != key:
        raise Ambiguous("two different credentials were sent: send one", field=_SHOWN["x-api-key"])
    if request.query and _IN_QUERY & {
        name.lower() for name, _ in parse_qsl(request.query, keep_blank_values=True, errors="replace")
    }:
        raise Ambiguous(
            "credentials in a URL are not taken: send 'Authorization: Bearer <credential>'",
            field="query",
            reason=Reason.IN_QUERY,
        )


def bearer(request: RequestFacts) -> str:
    """What stands behind ``Bearer``; empty if there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def api_key_header(request: RequestFacts) -> str:
    """What stands in ``X-API-Key``; empty if there is none."""
    return request.headers.get("x-api-key", "").strip()


def presented(request: RequestFacts) -> bool:
    """Whether there is any credential."""
    return any(name in request.headers for name in _ONCE)


def looks_like_jwt(token: str) -> bool:
    """Whether it has the form of a signed token."""
    return _JWT.fullmatch(token) is not None


_SHOWN = {"authorization": "Authorization", "x-api-key": "X-API-Key"}
