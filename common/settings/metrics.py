"""The section ``metrics``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from common.settings.fields import Proxies, VisibleAscii
from common.settings.section import Section


class MetricsSettings(Section):
    """Who may read `/metrics` of the web processes. With neither setting there is no page."""

    token: Annotated[SecretStr | None, VisibleAscii] = Field(
        default=None,
        description="What must be sent as `Authorization: Bearer`; 16 characters or more.",
    )
    allowed: Proxies = Field(
        default=(),
        description="Addresses or networks that may read it without the token, if they connect themselves: "
        "what a proxy passes on needs the token.",
    )

    @field_validator("token")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("must have 16 characters or more")
        return value

    @property
    def wanted(self) -> bool:
        """Whether anybody may read the page."""
        return self.token is not None or bool(self.allowed)
