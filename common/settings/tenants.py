"""The section ``tenants``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from common.domain.errors import InvalidRequest
from common.domain.quota import FIELDS, CapabilityRate, Quota, layered
from common.settings.fields import AsList, Calls, Id, Requests, Sessions
from common.settings.section import Section


def _tenant(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class CapabilityLimit(Section):
    """What a tenant may call of one tool. A call counts for each entry that fits it."""

    tool: Id = Field(description="Id of the tool.")
    name: Id = Field(
        default="*",
        description="Name of an MCP tool or a prompt, or URI of a resource, as the tool has it; `*` stands for any "
        "text. All that fit share the rate.",
    )
    requests_per_minute: Requests = Field(description="Most calls a minute in the long run.")
    burst: Requests | None = Field(
        default=None, description="Most calls at once. Absent: `requests_per_minute`."
    )


class QuotaSettings(Section):
    """Bounds of a tenant in the whole cluster."""

    requests_per_minute: Requests | None = Field(
        default=None,
        description="Most requests of one tenant a minute, in the long run; one more is refused.",
    )
    burst: Requests | None = Field(
        default=None,
        description="Most requests of one tenant at once; goes with `requests_per_minute`, and is as many if absent.",
    )
    max_calls: Calls | None = Field(
        default=None, description="Most calls of one tenant under way at a time, waiting ones included."
    )
    client_requests_per_minute: Requests | None = Field(
        default=None, description="Most requests a minute of each client of a tenant, in the long run."
    )
    client_burst: Requests | None = Field(
        default=None,
        description="Most requests of each client at once; goes with `client_requests_per_minute`.",
    )
    client_max_calls: Calls | None = Field(
        default=None, description="Most calls of each client under way at a time, waiting ones included."
    )
    max_sessions: Sessions | None = Field(
        default=None, description="Most tool sessions of one tenant; one more is refused."
    )
    max_mcp_sessions: Sessions | None = Field(
        default=None,
        description="Most MCP sessions of one tenant's clients (legacy era); one more is refused at `initialize`.",
    )
    capabilities: Annotated[tuple[CapabilityLimit, ...], AsList] = Field(
        default=(),
        description="Rates for single capabilities, each with tool, name, requests_per_minute and burst.",
    )

    def layer(self) -> dict[str, Any]:
        """What was set here, as a layer of a quota. A key that is null sets "no bound"."""
        found = {name: getattr(self, name) for name in FIELDS if name in self.model_fields_set}
        if "capabilities" in found:
            found["capabilities"] = tuple(CapabilityRate(**dict(rate)) for rate in self.capabilities)
        return found

    @model_validator(mode="after")
    def _agrees(self) -> QuotaSettings:
        try:
            layered(Quota(), self.layer())
        except InvalidRequest as error:
            raise ValueError(error.message) from None
        return self


class TenantSettings(QuotaSettings):
    """A tenant that may call. A key that is absent has its value from `tenants`; null is no bound."""

    id: Id = Field(description="Name of the tenant, as the identity resolver gives it.")
    enabled: bool = Field(
        default=True, description="False suspends the tenant: all its requests are refused."
    )


class TenantsSettings(QuotaSettings):
    """Which tenants may call, and how much: bounds here are those of each tenant that has none of its own."""

    allow_unlisted: bool = Field(
        default=False, description="Whether tenants that are not listed may call as well."
    )
    listed: Annotated[tuple[Annotated[TenantSettings, BeforeValidator(_tenant)], ...], AsList] = Field(
        default=(),
        description="Tenants that may call, each as a name or as a mapping with id and bounds of its own.",
    )

    @property
    def quota(self) -> Quota:
        """That of a tenant which has no bounds of its own."""
        return layered(Quota(), self.layer())

    @property
    def layers(self) -> Mapping[str, Mapping[str, Any]]:
        """What is set for each listed tenant."""
        return {tenant.id: tenant.layer() for tenant in self.listed}

    @model_validator(mode="after")
    def _distinct(self) -> TenantsSettings:
        if len({tenant.id for tenant in self.listed}) != len(self.listed):
            raise ValueError("listed names a tenant twice; remove one of the two")
        return self
