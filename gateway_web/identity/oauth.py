"""What OAuth clients are told: the metadata of a protected resource (RFC 9728), and challenges (RFC 6750).

All URLs are made of ``identity.oauth.resource``; no header of a request has a say in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from flask import Flask
from flask.typing import ResponseReturnValue

from common.domain.ids import MAX_ID_LENGTH, ToolId
from common.settings import IdentitySettings
from gateway_web.http import HttpAnswer, HttpRequest
from gateway_web.ingress.short_way import Handler

WELL_KNOWN = "/.well-known/oauth-protected-resource"
CHALLENGE = "WWW-Authenticate"
_DOOR = re.compile(r"(?:/servers/(?P<tool>.+))?/(?P<door>mcp|sse|messages|ws)/?", re.DOTALL)
Respond = Callable[[HttpAnswer], ResponseReturnValue]


@lru_cache(maxsize=4096)
def _place(path: str) -> str:
    """The path of an endpoint as URLs have it, ``/messages`` being a part of ``/sse``; empty for any other path."""
    found = _DOOR.fullmatch(path)
    if found is None or len(path) > MAX_ID_LENGTH + 32:
        return ""
    door = "sse" if found["door"] == "messages" else found["door"]
    return f"/{door}" if found["tool"] is None else f"/servers/{quote(found['tool'], safe='')}/{door}"


def resource_of(resource: str, path: str) -> str:
    """The URI of the endpoint that a request's path is of; that of the whole gateway for any other path."""
    return resource + _place(path)


class ProtectedResource:
    """The documents, and the challenges that lead to them."""

    def __init__(self, settings: IdentitySettings) -> None:
        """``settings`` have the part ``oauth``."""
        self.take_over(settings)

    def take_over(self, settings: IdentitySettings) -> None:
        """Say what these settings say, which have the part ``oauth`` too."""
        oauth = settings.oauth
        assert oauth is not None  # noqa: S101 - said above
        self._resource = oauth.resource
        parts = urlsplit(oauth.resource)
        self._origin, self._prefix = f"{parts.scheme}://{parts.netloc}", parts.path
        issuer = () if settings.jwt is None else (settings.jwt.issuer,)
        document: dict[str, Any] = {
            "authorization_servers": list(oauth.authorization_servers or issuer),
            "scopes_supported": list(oauth.scopes_supported or settings.required_scopes),
            "bearer_methods_supported": ["header"],
        }
        if oauth.resource_name is not None:
            document["resource_name"] = oauth.resource_name
        if oauth.documentation is not None:
            document["resource_documentation"] = oauth.documentation
        self._document = document
        self._scope = " ".join(settings.required_scopes)

    def document(self, path: str) -> dict[str, Any] | None:
        """The metadata of the endpoint at a path, empty for the whole gateway; None if there is no such endpoint.

        Whether there is such a tool is not told: strangers read this.
        """
        if path and not _place(path):
            return None
        return {"resource": resource_of(self._resource, path), **self._document}

    def metadata_url(self, path: str) -> str:
        """Where the metadata of an endpoint is: the well-known part stands between the host and the path."""
        return f"{self._origin}{WELL_KNOWN}{self._prefix}{_place(path)}"

    def completed(self, answer: HttpAnswer, path: str) -> HttpAnswer:
        """An answer whose challenge, if it has one, says where the metadata are and which scopes to ask for."""
        challenge = answer.headers.get(CHALLENGE)
        if challenge is not None:
            scope = f', scope="{self._scope}"' if self._scope and "scope=" not in challenge else ""
            answer.headers[CHALLENGE] = f'{challenge}, resource_metadata="{self.metadata_url(path)}"{scope}'
        return answer

    def around(self, handler: Handler) -> Handler:
        """A handler whose challenges are complete."""

        def complete(http: HttpRequest, tool: ToolId | None) -> HttpAnswer:
            return self.completed(handler(http, tool), http.path)

        return complete

    def add_to(self, app: Flask, respond: Callable[[dict[str, Any] | None], ResponseReturnValue]) -> None:
        """Serve the documents, at the root and for each endpoint, to whoever asks."""

        def metadata(path: str = "") -> ResponseReturnValue:
            path = f"/{path}" if path else ""
            if self._prefix:
                if path and not path.startswith(self._prefix):
                    return respond(None)
                path = path.removeprefix(self._prefix)
            return respond(self.document(path))

        app.add_url_rule(WELL_KNOWN, "metadata", metadata, methods=["GET"])
        app.add_url_rule(f"{WELL_KNOWN}/<path:path>", "metadata of an endpoint", metadata, methods=["GET"])
