"""The section ``flower``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.settings.fields import Host, Port
from common.settings.section import Section


class FlowerSettings(Section):
    """Flower, as `canalgate flower` and `canalgate up --flower` start it: it shows, and changes nothing."""

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on. It speaks plain HTTP: a proxy with TLS belongs before any other.",
    )
    port: Port = Field(default=5555, description="Port to listen on; 0 is any.")
    calls: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        default=10_000, description="Calls that it remembers, about 2 kB each."
    )
