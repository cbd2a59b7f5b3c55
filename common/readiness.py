"""Whether a process can serve calls."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether calls can be served, and what is missing if not."""

    redis: bool
    replies: bool
    tools: bool
    workers: int

    @property
    def ready(self) -> bool:
        return self.redis and self.replies and self.tools and self.workers > 0
