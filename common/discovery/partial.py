"""What a source names while it cannot see all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from common.domain.tool import Tool


class Partial(dict[str, Mapping[str, Any]]):
    """Entries by id, and why there may be more.

    ``fault`` is told to operators as that of a source. ``kept`` says of a tool that is registered and is not named here
    whether it is of the part that is not seen: it stays as it is.
    """

    def __init__(
        self, entries: Mapping[str, Mapping[str, Any]], fault: str, kept: Callable[[Tool], bool]
    ) -> None:
        super().__init__(entries)
        self.fault = fault
        self.kept = kept
