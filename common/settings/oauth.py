"""``identity.oauth``: what OAuth clients are told of the gateway (RFC 9728)."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from common.settings.fields import AsList, Id, Scopes, checked_secure_url
from common.settings.section import Section


def _resource(value: str) -> str:
    checked_secure_url(value)
    if "?" in value or "#" in value or "@" in value or value.endswith("/"):
        raise ValueError(
            "must have no query, no fragment, no user and no final slash: https://gateway.example.com"
        )
    return value


def _servers(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        checked_secure_url(value)
    return values


class OAuthSettings(Section):
    """The gateway as a protected resource."""

    resource: Annotated[Id, AfterValidator(_resource)] = Field(
        description="What all URLs of this gateway begin with, as clients know it; never taken from a Host header."
    )
    authorization_servers: Annotated[tuple[Id, ...], AsList, AfterValidator(_servers)] = Field(
        default=(), description="Where clients get tokens; absent: identity.jwt.issuer."
    )
    scopes_supported: Scopes = Field(
        default=(), description="Scopes that anybody may know of; absent: identity.required_scopes."
    )
    resource_name: Id | None = Field(default=None, description="What people call this gateway.")
    documentation: Annotated[Id, AfterValidator(checked_secure_url)] | None = Field(
        default=None, description="Where people read about it."
    )
