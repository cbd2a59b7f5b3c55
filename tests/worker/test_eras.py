"""In which order a backend is asked for the eras that it may speak."""

from __future__ import annotations

import pytest

from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, Tool
from common.mcp.revisions import Era
from gateway_worker.eras import era_order
from tests.support.backends import entry_of, stdio_tool

LEGACY, MODERN = Era.LEGACY, Era.MODERN


@pytest.mark.parametrize(
    ("known", "preferred", "order"),
    [
        (None, LEGACY, [LEGACY, MODERN]),
        (None, MODERN, [LEGACY, MODERN]),
        ([LEGACY], MODERN, [LEGACY]),
        ([MODERN], LEGACY, [MODERN]),
        ([LEGACY, MODERN], LEGACY, [LEGACY, MODERN]),
        ([LEGACY, MODERN], MODERN, [MODERN, LEGACY]),
        ([], MODERN, [LEGACY, MODERN]),
    ],
)
def test_the_order_of_eras_over_stdio(known: list[Era] | None, preferred: Era, order: list[Era]) -> None:
    """The caller's first if it is spoken; an unknown backend is asked legacy first."""
    assert era_order(entry_of(stdio_tool(), eras=known), preferred) == order


@pytest.mark.parametrize(
    ("known", "preferred", "order"),
    [
        (None, LEGACY, [MODERN, LEGACY]),
        (None, MODERN, [MODERN, LEGACY]),
        ([LEGACY], MODERN, [LEGACY]),
        ([MODERN], LEGACY, [LEGACY, MODERN]),
        ([MODERN], MODERN, [MODERN]),
        ([LEGACY, MODERN], LEGACY, [LEGACY, MODERN]),
    ],
)
def test_the_order_of_eras_over_http(known: list[Era] | None, preferred: Era, order: list[Era]) -> None:
    """An unknown backend is asked modern first; one that speaks it may speak the caller's as well."""
    tool = Tool(id=ToolId("t"), transport=HttpTransport(url="http://h/mcp"))
    assert era_order(entry_of(tool, eras=known), preferred) == order
