"""The section ``client_credentials``: the credentials provider of that name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from common.settings.credential_owner import CredentialOwner, check_apart
from common.settings.fields import AsList, SecondsOrZero
from common.settings.section import Section
from common.settings.token_endpoint import TokenEndpointKeys


class ClientCredentialsEntry(TokenEndpointKeys, CredentialOwner):
    """Who issues the access tokens of one tool, or of one tenant or client of it."""


class ClientCredentialsSettings(Section):
    """Access tokens that authorization servers issue to the gateway itself (OAuth 2.0, client credentials)."""

    clients: Annotated[tuple[ClientCredentialsEntry, ...], AsList] = Field(
        default=(), description="What is issued for which tool, and by whom. The provider needs at least one."
    )
    leeway: SecondsOrZero = Field(
        default=10.0,
        description="How long before its expiry a token counts as expired, at most half of its life.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> ClientCredentialsSettings:
        check_apart("clients", self.clients)
        return self
