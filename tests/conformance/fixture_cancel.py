"""The fixture's tools that show whether a cancellation arrives: one that ends only so, one that tells of it."""

from __future__ import annotations

from collections import defaultdict

import anyio

from tests.conformance import fixture_schemas as schemas
from tests.conformance.fixture_schemas import JsonObject
from tests.conformance.fixture_tools import Call, FixtureTool, content, text

PATIENCE = 15.0
"""Seconds that a cancellation may take."""

_cancelled: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)


async def _until_cancelled(call: Call) -> JsonObject:
    """Report progress once, so that the client knows where we are, and wait."""
    try:
        await call.context.session.report_progress(1, 2, "waiting")
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        _cancelled[str(call.arguments["call"])].set()
        raise
    return content(text("never sent"))


async def _was_cancelled(call: Call) -> JsonObject:
    """Wait for the cancellation of that call."""
    with anyio.move_on_after(PATIENCE):
        await _cancelled[str(call.arguments["call"])].wait()
        return content(text("it was cancelled"))
    return content(text("it was not cancelled"))


_NAMED = schemas.text_argument("call", "What the call is known by, to both tools")

TOOLS: dict[str, FixtureTool] = {
    "test_until_cancelled": FixtureTool(
        run=_until_cancelled, description="Ends only when it is cancelled", input_schema=_NAMED
    ),
    "test_was_cancelled": FixtureTool(
        run=_was_cancelled, description="Tells that another call was cancelled", input_schema=_NAMED
    ),
}
