"""The section ``admin``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from common.settings.fields import AsList, Id, LowerCase, VisibleAscii
from common.settings.section import Section


class AdminToken(Section):
    """A token of the admin API, and who uses it."""

    name: Id = Field(description="Who uses it; the audit journal calls him so.")
    token: Annotated[
        SecretStr,
        VisibleAscii,
        Field(min_length=16, description="What is sent as `Authorization: Bearer`; 16 characters or more."),
    ]
    role: Annotated[Literal["viewer", "operator", "admin"], LowerCase] = Field(
        default="viewer",
        description="viewer sees everything but secrets, operator switches what there is, admin changes what there is.",
    )


class AdminSettings(Section):
    """The admin API under `/admin/v1`."""

    enabled: bool = Field(default=False, description="Whether the web processes serve the admin API.")
    allow_credentials: bool = Field(
        default=False,
        description="Whether definitions that come over the admin API may name credentials, or send those that a "
        "tool has elsewhere (another command, arguments, host or factory). Whoever may change tools can then have "
        "secrets of providers sent to himself.",
    )
    tokens: Annotated[tuple[AdminToken, ...], AsList] = Field(
        default=(), description="Tokens of the admin API, each with name, token and role."
    )

    @model_validator(mode="after")
    def _agrees(self) -> AdminSettings:
        if self.enabled and not self.tokens:
            raise ValueError(
                "enabled needs at least one entry in admin.tokens: nobody could use the admin API"
            )
        for what, values in (
            ("name", [entry.name for entry in self.tokens]),
            ("token", [entry.token.get_secret_value() for entry in self.tokens]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"two entries of tokens have the same {what}: give each its own")
        return self
