"""How many records stay in Redis, and which of them are marked."""

from __future__ import annotations

from dataclasses import dataclass

MARK_EVERY = 500
"""Most records between two marks; the journal is trimmed at marks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """``most`` events stay in Redis if all sinks have them; ``key`` is the chain's, empty for none."""

    most: int
    key: bytes = b""

    @property
    def mark_every(self) -> int:
        return max(1, min(MARK_EVERY, self.most // 20))

    def keep(self, sinks: bool) -> int:  # noqa: FBT001 - one of two rules
        """How many records stay that every sink has. With sinks half: the rest is for what one of them has not got."""
        return self.most // 2 if sinks else self.most - 2 * self.mark_every

    @property
    def spill_at(self) -> int:
        """How many records may be in Redis before some of them are spilled."""
        return self.most * 3 // 4
