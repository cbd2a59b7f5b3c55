"""The section ``token_exchange``: the credentials provider of that name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from common.settings.credential_owner import CredentialOwner, check_apart
from common.settings.fields import AsList, Id, SecondsOrZero
from common.settings.section import Section
from common.settings.token_endpoint import Algorithm, TokenEndpointKeys


class TokenExchangeEntry(TokenEndpointKeys, CredentialOwner):
    """Where the access tokens of a tool's subjects come from; one for a tenant or client goes before one for all."""

    subject_audience: str | None = Field(
        default=None,
        min_length=1,
        description="Audience of what the gateway signs of a subject; absent: token_url.",
    )


class TokenExchangeSettings(Section):
    """Access tokens for the subject that calls (RFC 8693), in exchange for what the gateway signs itself."""

    exchanges: Annotated[tuple[TokenExchangeEntry, ...], AsList] = Field(
        default=(), description="Who exchanges for which tool. The provider needs at least one."
    )
    issuer: Id | None = Field(
        default=None, description="Who the gateway is where it signs (`iss`); the provider needs it."
    )
    signing_key: SecretStr | None = Field(
        default=None, description="Private key in PEM that it signs with; the servers know the public one."
    )
    signing_key_file: str | None = Field(
        default=None, min_length=1, description="File that holds the key instead; read for each token."
    )
    signing_key_id: str | None = Field(
        default=None, min_length=1, description="Name of the key (`kid`), if the servers know several."
    )
    signing_algorithm: Algorithm = Field(
        default="RS256", description="What the key signs with: RS256, PS256, ES256, ES384 or EdDSA."
    )
    actor: Id | None = Field(
        default=None,
        description="Who acts for the subject (`actor_token`), such as the gateway's name; absent: nobody is named.",
    )
    leeway: SecondsOrZero = Field(
        default=10.0,
        description="How long before its expiry a token counts as expired, at most half of its life.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> TokenExchangeSettings:
        check_apart("exchanges", self.exchanges)
        if not self.exchanges:
            return self
        if self.issuer is None:
            raise ValueError("exchanges need issuer, by which the servers know whose key to check with")
        if (self.signing_key is None) == (self.signing_key_file is None):
            raise ValueError("exchanges need signing_key or signing_key_file, and only one of them")
        return self
