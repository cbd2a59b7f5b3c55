"""What is to be known of an authorization server to be given access tokens by it."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from common.settings.fields import AsList, LowerCase, Scopes, checked_secure_url
from common.settings.section import Section

SIGNING_ALGORITHMS = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
Algorithm = Literal["RS256", "PS256", "ES256", "ES384", "EdDSA"]


def _resources(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        parts = urlsplit(value)
        if not parts.scheme or not (parts.netloc or parts.path) or "#" in value or not value.isprintable():
            raise ValueError("must hold absolute URIs without a fragment (RFC 8707)")
    return values


def _texts(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(value and value.isprintable() for value in values):
        raise ValueError("must hold texts that are not empty")
    return values


class TokenEndpointKeys(Section):
    """The keys that entries of `client_credentials.clients` and `token_exchange.exchanges` have in common."""

    token_url: Annotated[str, AfterValidator(checked_secure_url)] = Field(
        description="Token endpoint of the authorization server: https, or http on this machine."
    )
    auth: Annotated[Literal["client_secret_basic", "client_secret_post", "private_key_jwt"], LowerCase] = (
        Field(
            default="client_secret_basic",
            description="How the gateway makes itself known there: client_secret_basic, client_secret_post or "
            "private_key_jwt.",
        )
    )
    client_id: str = Field(min_length=1, max_length=512, description="The gateway's own id at that server.")
    client_secret: SecretStr | None = Field(default=None, description="Its secret, with client_secret_*.")
    client_secret_file: str | None = Field(
        default=None, min_length=1, description="File that holds the secret instead; read for each token."
    )
    private_key: SecretStr | None = Field(
        default=None, description="Its private key in PEM, with private_key_jwt."
    )
    private_key_file: str | None = Field(
        default=None, min_length=1, description="File that holds the key instead; read for each token."
    )
    key_id: str | None = Field(
        default=None, min_length=1, description="Name of the key at the server (`kid`), if it has several."
    )
    algorithm: Algorithm = Field(
        default="RS256", description="What the key signs with: RS256, PS256, ES256, ES384 or EdDSA."
    )
    assertion_audience: str | None = Field(
        default=None,
        min_length=1,
        description="Audience of what is signed with private_key_jwt; absent: token_url.",
    )
    scopes: Scopes = Field(default=(), description="Scopes to ask for; absent: those that the server gives.")
    resources: Annotated[tuple[str, ...], AsList, AfterValidator(_resources)] = Field(
        default=(), description="URIs of the servers that the token is for (`resource`, RFC 8707)."
    )
    audiences: Annotated[tuple[str, ...], AsList, AfterValidator(_texts)] = Field(
        default=(), description="The same by the server's own names (`audience`)."
    )
    ca_file: str | None = Field(
        default=None,
        min_length=1,
        description="File with the authorities to trust; absent: those of the system.",
    )

    @model_validator(mode="after")
    def _knows_itself(self) -> TokenEndpointKeys:
        secrets = [self.client_secret, self.client_secret_file]
        keys = [self.private_key, self.private_key_file]
        wanted, other, words = (
            (keys, secrets, "private_key or private_key_file")
            if self.auth == "private_key_jwt"
            else (secrets, keys, "client_secret or client_secret_file")
        )
        if sum(value is not None for value in wanted) != 1 or any(value is not None for value in other):
            raise ValueError(f"auth {self.auth} needs {words}: one of the two, and nothing else")
        return self
