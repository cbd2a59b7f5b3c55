"""The rate that an entry of ``tools`` may set."""

from __future__ import annotations

from pydantic import Field

from common.settings.fields import Requests
from common.settings.section import Section


class RateSettings(Section):
    """How many calls are taken."""

    requests_per_minute: Requests | None = Field(
        default=None,
        description="Most calls a minute of all tenants together, in the long run; one more is refused.",
    )
    burst: Requests | None = Field(
        default=None,
        description="Most of them at once; goes with `requests_per_minute`, and is as many if absent.",
    )
