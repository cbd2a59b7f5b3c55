"""The section ``identity``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from common.settings.fields import AsList, HeaderName, Id, Resolver, VisibleAscii
from common.settings.section import Section


class ApiKey(Section):
    """A key, and the caller it stands for."""

    key: Annotated[
        SecretStr, VisibleAscii, Field(min_length=1, description="The secret that the caller sends.")
    ]
    tenant: Id = Field(description="Tenant the key belongs to.")
    client: Id = Field(description="Client the key belongs to.")


class IdentitySettings(Section):
    """How a request is turned into a tenant and a client."""

    resolver: Resolver = Field(
        default="none",
        description="Who says who calls: none, header, api_key, or your own class as package.module:Class.",
    )
    tenant_header: HeaderName = Field(
        default="X-Tenant-Id",
        description="Header with the tenant, for the header resolver behind a trusted proxy.",
    )
    client_header: HeaderName = Field(
        default="X-Client-Id", description="Header with the client, for the header resolver."
    )
    api_keys: Annotated[tuple[ApiKey, ...], AsList] = Field(
        default=(), description="Keys of the api_key resolver, each with key, tenant and client."
    )
    default_tenant: Id = Field(default="default", description="Tenant of every caller with resolver none.")
    default_client: Id = Field(default="default", description="Client of every caller with resolver none.")

    @model_validator(mode="after")
    def _agrees(self) -> IdentitySettings:
        if self.resolver == "api_key" and not self.api_keys:
            raise ValueError("resolver api_key needs at least one entry in identity.api_keys")
        if self.tenant_header.lower() == self.client_header.lower():
            raise ValueError("tenant_header and client_header must be two different headers")
        first: dict[str, int] = {}
        for index, entry in enumerate(self.api_keys):
            other = first.setdefault(entry.key.get_secret_value(), index)
            if other != index:
                raise ValueError(
                    f"api_keys[{index}] has the same key as api_keys[{other}]: give each its own"
                )
        return self
