"""The section ``identity``."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, model_validator

from common.settings.fields import (
    AsList,
    AsMapping,
    HeaderName,
    Id,
    Resolvers,
    Scopes,
    Seconds,
    SecondsOrZero,
    VisibleAscii,
)
from common.settings.mtls import MtlsSettings
from common.settings.oauth import OAuthSettings
from common.settings.section import Section
from common.settings.tokens import JwtSettings


def _one_header(value: SecretStr) -> SecretStr:
    if "," in value.get_secret_value():
        raise ValueError("must hold no comma: a header with one reads as two headers")
    return value


class ApiKey(Section):
    """A key, and the caller it stands for."""

    key: Annotated[
        SecretStr,
        VisibleAscii,
        Field(min_length=1, description="The secret that the caller sends."),
        AfterValidator(_one_header),
    ]
    tenant: Id = Field(description="Tenant the key belongs to.")
    client: Id = Field(description="Client the key belongs to.")
    subject: Id | None = Field(
        default=None, description="Who is behind the client; absent: nobody in particular."
    )
    scopes: Scopes = Field(default=(), description="What the caller may ask for.")


class IdentitySettings(Section):
    """How a request is turned into a tenant and a client."""

    resolver: Resolvers = Field(
        default=("none",),
        description="Who says who calls, one name or several in the order in which they are asked: api_key, jwt, "
        "mtls, header, none (last), an installed plug-in's name, or your own class as package.module:Class.",
    )
    tenant_header: HeaderName = Field(
        default="X-Tenant-Id",
        description="Header with the tenant, for the header resolver behind a trusted proxy.",
    )
    client_header: HeaderName = Field(
        default="X-Client-Id", description="Header with the client, for the header resolver."
    )
    subject_header: HeaderName | None = Field(
        default=None, description="Header with the subject, for the header resolver; absent: there is none."
    )
    scopes_header: HeaderName | None = Field(
        default=None,
        description="Header with the scopes between spaces, for the header resolver; absent: nobody has any.",
    )
    api_keys: Annotated[tuple[ApiKey, ...], AsList] = Field(
        default=(),
        description="Keys of the api_key resolver, each with key, tenant and client; others are issued while the "
        "gateway runs (`canalgate keys`).",
    )
    jwt: Annotated[JwtSettings | None, AsMapping] = Field(
        default=None, description="Which tokens the jwt resolver takes, and what their claims mean."
    )
    mtls: Annotated[MtlsSettings | None, AsMapping] = Field(
        default=None,
        description="How the mtls resolver reads what a trusted proxy, or our listener, says of a certificate.",
    )
    oauth: Annotated[OAuthSettings | None, AsMapping] = Field(
        default=None, description="What OAuth clients are told of this gateway as a protected resource."
    )
    required_scopes: Scopes = Field(
        default=(), description="Scopes without which no request is served; a tool may need more."
    )
    cache_ttl: SecondsOrZero = Field(
        default=5.0,
        description="How long a token or key that was good is taken for good without a look; 0: each is looked at.",
    )
    recheck_interval: Seconds = Field(
        default=5.0,
        description="Time between two looks at whether the credential behind an open stream is still good.",
    )
    resolver_timeout: Seconds = Field(
        default=5.0, description="Longest wait for a resolver of your own; the request is refused beyond it."
    )
    default_tenant: Id = Field(default="default", description="Tenant of every caller with resolver none.")
    default_client: Id = Field(default="default", description="Client of every caller with resolver none.")

    @model_validator(mode="after")
    def _agrees(self) -> IdentitySettings:
        names = [self.tenant_header, self.client_header, self.subject_header, self.scopes_header]
        given = [name.lower() for name in names if name is not None]
        if len(set(given)) != len(given):
            raise ValueError(
                "tenant_header, client_header, subject_header and scopes_header must be different headers"
            )
        self._check_keys()
        for name in ("jwt", "mtls"):
            if name in self.resolver and getattr(self, name) is None:
                raise ValueError(f"resolver {name} needs identity.{name}")
        if self.jwt is not None and not self.jwt.audience and self.oauth is None:
            raise ValueError(
                "jwt.audience must name this gateway, or oauth.resource must be set: a token for somebody else is no "
                "token for us"
            )
        if self.oauth is not None and not self.oauth.authorization_servers and self.jwt is None:
            raise ValueError(
                "oauth.authorization_servers must name at least one, since there is no jwt.issuer"
            )
        return self

    def _check_keys(self) -> None:
        first: dict[str, int] = {}
        for index, entry in enumerate(self.api_keys):
            other = first.setdefault(entry.key.get_secret_value(), index)
            if other != index:
                raise ValueError(
                    f"api_keys[{index}] has the same key as api_keys[{other}]: give each its own"
                )

    @property
    def open(self) -> bool:
        """Whether whoever names nobody is let in."""
        return "none" in self.resolver

    @property
    def trusts_headers(self) -> bool:
        """Whether callers are recognised by headers that only a proxy may set."""
        certificates = self.mtls is not None and self.mtls.form != "listener" and "mtls" in self.resolver
        return certificates or "header" in self.resolver
