"""The section ``tenants``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from common.settings.fields import AsList, Id, Sessions
from common.settings.section import Section


def _tenant(value: object) -> object:
    return {"id": value} if isinstance(value, str) else value


class TenantSettings(Section):
    """A tenant that may call."""

    id: Id = Field(description="Name of the tenant, as the identity resolver gives it.")
    max_sessions: Sessions | None = Field(
        default=None,
        description="Most tool sessions of this tenant; one more is refused. Absent: `tenants.max_sessions`.",
    )


class TenantsSettings(Section):
    """Which tenants may call."""

    allow_unlisted: bool = Field(
        default=False, description="Whether tenants that are not listed may call as well."
    )
    max_sessions: Sessions | None = Field(
        default=None,
        description="Most tool sessions of one tenant in the whole cluster; one more is refused. Absent: any number.",
    )
    listed: Annotated[tuple[Annotated[TenantSettings, BeforeValidator(_tenant)], ...], AsList] = Field(
        default=(),
        description="Tenants that may call, each as a name or as a mapping with id and max_sessions.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> TenantsSettings:
        if len({tenant.id for tenant in self.listed}) != len(self.listed):
            raise ValueError("listed names a tenant twice; remove one of the two")
        return self
