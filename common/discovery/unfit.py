"""A tool that a source cannot describe."""

from __future__ import annotations

from typing import Any

MOST_TOOLS = 10_000
"""Of one source."""


class Unfit(dict[str, Any]):
    """In the place of an entry: why there is none. The tool keeps the definition that it had, as for any that is
    refused.
    """

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
