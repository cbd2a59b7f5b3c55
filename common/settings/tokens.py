"""``identity.jwt``: which tokens are taken, and what their claims mean."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.settings.fields import AsList, Id, Seconds, SecondsOrZero, checked_secure_url
from common.settings.section import Section

ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Signatures by a key that the gateway cannot sign with itself."""
MOST_LEEWAY = 300.0


def _algorithms(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values or not set(values) <= set(ALGORITHMS):
        raise ValueError(
            f"must hold signatures by asymmetric keys, some of {', '.join(ALGORITHMS)}: whoever checks an HS256 token "
            "could make one, and none is no signature"
        )
    return values


def _jwks(value: str) -> str:
    """A file path, or a URL that nobody on the way can change the answer of."""
    if "://" in value:
        return checked_secure_url(value)
    if not value or "\0" in value:
        raise ValueError("must be an https:// URL, or the path of a file")
    return value


def _leeway(value: float) -> float:
    if value > MOST_LEEWAY:
        raise ValueError(f"must be at most {MOST_LEEWAY:g}")
    return value


_Texts = Annotated[tuple[Id, ...], AsList]


class JwtSettings(Section):
    """Tokens that an authorization server has signed."""

    issuer: Id = Field(description="Who must have issued a token: its claim `iss`, letter by letter.")
    jwks: Annotated[Id, AfterValidator(_jwks)] = Field(
        description="The issuer's public keys (a JWK set): an https URL (http on loopback), or a file."
    )
    audience: _Texts = Field(
        default=(),
        description="Whom a token must be for: one of these in its claim `aud`. The endpoint's own URI will do as well "
        "if identity.oauth is set.",
    )
    algorithms: Annotated[_Texts, AfterValidator(_algorithms)] = Field(
        default=("RS256", "ES256"), description="Signatures that are taken; asymmetric ones only."
    )
    types: _Texts = Field(
        default=("at+jwt", "JWT"),
        description="What a token may call itself in its header `typ`; one that says nothing counts as JWT.",
    )
    leeway: Annotated[SecondsOrZero, AfterValidator(_leeway)] = Field(
        default=10.0, description="How far the clocks of issuer and gateway may be apart."
    )
    tenant: Id | None = Field(default=None, description="Tenant of whoever has a token of this issuer.")
    tenant_claim: Id | None = Field(
        default=None, description="Claim that names the tenant, instead of `tenant`."
    )
    client_claim: Id = Field(default="client_id", description="Claim that names the client.")
    subject_claim: Id = Field(default="sub", description="Claim that names the subject.")
    scopes_claim: Id = Field(
        default="scope", description="Claim with the scopes: text with spaces between them, or a list."
    )
    jwks_ttl: Seconds = Field(default=300.0, description="Age at which the issuer's keys are fetched again.")
    jwks_max_stale: SecondsOrZero = Field(
        default=3600.0,
        description="How long beyond that they are used while they cannot be fetched; then nobody is let in by token.",
    )
    jwks_cooldown: Seconds = Field(
        default=10.0,
        description="Least time between two fetches on account of tokens whose key is not known (yet).",
    )
    jwks_timeout: Seconds = Field(default=5.0, description="Longest time for one fetch of the keys.")

    @model_validator(mode="after")
    def _one_tenant(self) -> JwtSettings:
        if (self.tenant is None) == (self.tenant_claim is None):
            raise ValueError("give either tenant, or tenant_claim with the name of the claim that says it")
        return self
