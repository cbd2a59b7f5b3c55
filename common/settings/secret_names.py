"""Names of secrets at a secret manager, made of the ids of tool, tenant and client."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from common.domain.credentials import CredentialRequest, safe_part
from common.settings.section import Section

_PLACE = re.compile(r"\{([^{}]*)\}")
_PLACES = frozenset({"tool", "tenant", "client"})
_LITERAL = re.compile(r"[A-Za-z0-9_/-]+")
_BETWEEN = re.compile(r"\}([^{}]*)\{")


def _template(value: str) -> str:
    if not set(_PLACE.findall(value)) <= _PLACES or not _LITERAL.fullmatch(_PLACE.sub("x", value)):
        raise ValueError(
            "must be made of letters, digits, '_', '-' and '/', with {tool}, {tenant} and {client} for the ids"
        )
    if not all("-" in part or "/" in part for part in _BETWEEN.findall(value)):
        raise ValueError("must have '-' or '/' between two ids: else one could run into the other")
    if "{tool}" not in value:
        raise ValueError("must hold {tool}: else all tools would have the same secrets")
    return value


NameTemplate = Annotated[str, AfterValidator(_template)]


class SecretNames(Section):
    """The keys that sections of secret managers have in common; each has its own defaults."""

    tool_name: NameTemplate = Field(description="Name of secrets with `scope: tool`.")
    tenant_name: NameTemplate = Field(description="Name of secrets with `scope: tenant`.")
    client_name: NameTemplate = Field(description="Name of secrets with `scope: client`.")

    @model_validator(mode="after")
    def _names_agree(self) -> SecretNames:
        wanted = (
            (self.tool_name, {"tool"}),
            (self.tenant_name, {"tool", "tenant"}),
            (self.client_name, {"tool", "tenant", "client"}),
        )
        if any(set(_PLACE.findall(name)) != places for name, places in wanted):
            raise ValueError(
                "tool_name must hold {tool} alone, tenant_name {tool} and {tenant}, client_name all three: "
                "else others' secrets are given"
            )
        return self

    def name_for(self, request: CredentialRequest) -> str:
        """The name of the secret that is wanted."""
        template = self.tool_name
        if request.tenant is not None:
            template = self.tenant_name if request.client is None else self.client_name
        ids = {"tool": request.tool, "tenant": request.tenant or "", "client": request.client or ""}
        return template.format(**{name: safe_part(value) for name, value in ids.items()})
