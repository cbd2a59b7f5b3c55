"""Patterns: ``*`` stands for any text, also for none; everything else for itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, taken apart once. Matching takes time in proportion to the text, whatever the pattern is."""

    text: str
    _parts: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", tuple(self.text.split("*")))

    def matches(self, text: str) -> bool:
        """Whether the pattern stands for the whole text."""
        first, *middle = self._parts
        if not middle:
            return text == first
        last = middle.pop()
        if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for part in middle:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True


def any_matches(globs: tuple[Glob, ...], text: str) -> bool:
    """Whether one of the patterns stands for the text."""
    return any(glob.matches(text) for glob in globs)
