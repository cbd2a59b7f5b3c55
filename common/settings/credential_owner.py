"""Whose credentials an entry of the settings is about."""

from __future__ import annotations

from pydantic import Field, model_validator

from common.domain.credentials import CredentialRequest
from common.domain.ids import ClientId, TenantId, ToolId
from common.settings.fields import Id
from common.settings.section import Section


class CredentialOwner(Section):
    """A tool, and the tenant or client of it where those have their own."""

    tool: Id = Field(description="Tool whose sessions get them.")
    tenant: Id | None = Field(
        default=None,
        description="Tenant they are for; absent with `scope: tool`, and needed with the others.",
    )
    client: Id | None = Field(
        default=None, description="Client of the tenant they are for, needed with `scope: client`."
    )

    @model_validator(mode="after")
    def _names_a_tenant(self) -> CredentialOwner:
        if self.client is not None and self.tenant is None:
            raise ValueError("client needs a tenant: clients of two tenants may have the same name")
        return self

    @property
    def request(self) -> CredentialRequest:
        """What a worker asks for them."""
        return CredentialRequest(
            tool=ToolId(self.tool),
            tenant=None if self.tenant is None else TenantId(self.tenant),
            client=None if self.client is None else ClientId(self.client),
        )


def check_apart(name: str, entries: tuple[CredentialOwner, ...]) -> None:
    """ValueError if two entries of the list ``name`` are for the same."""
    first: dict[CredentialRequest, int] = {}
    for index, entry in enumerate(entries):
        other = first.setdefault(entry.request, index)
        if other != index:
            raise ValueError(f"{name}[{index}] is for the same as {name}[{other}]: make one of both")
