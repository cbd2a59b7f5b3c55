"""Rules of egress for tests that are about something else: their tools are on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from common.domain.egress import EgressRules

if TYPE_CHECKING:
    from common.domain.networks import Address
    from common.domain.tool import Tool


class _Anything(EgressRules):
    __slots__ = ()

    def refusal(self, host: str, addresses: Iterable[Address], *, local: bool) -> None:
        """Everywhere is good."""

    def check_runtime(self, tool: Tool) -> None:
        """Every tool is good."""


ANYTHING = _Anything()
"""Lets every tool be registered at run time, and every address be connected to."""
