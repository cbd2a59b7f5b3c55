"""Leave to run twice: the operator's word, and a backend's only where the operator trusts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from common.calls.leave import leave_of
from common.domain.rules import Retry
from common.mcp.revisions import Era
from common.registry.records import Entry
from tests.support.backends import entry_of, invocation, stdio_tool

HARMLESS = [{"readOnlyHint": True}, {"idempotentHint": True}, {"readOnlyHint": False, "idempotentHint": True}]
NO_LEAVE: list[Any] = [
    None,
    {},
    {"readOnlyHint": False},
    {"destructiveHint": False},
    {"readOnlyHint": "true"},
    {"idempotentHint": 1},
    "readOnlyHint",
    ["readOnlyHint"],
]
UNKNOWN = object()


def entry(annotations: Any, *, trust: bool = True, retry: Retry = Retry.UNSENT) -> Entry:
    """A tool with the capability ``look``, and what its backend says of that."""
    look: Mapping[str, Any] = {"name": "look", "annotations": annotations}
    tool = stdio_tool(trust_annotations=trust, retry=retry)
    if annotations is UNKNOWN:
        return entry_of(tool)
    return entry_of(tool, eras=[Era.LEGACY], definitions=[look])


@pytest.mark.parametrize("annotations", HARMLESS)
def test_a_trusted_backend_gives_leave(annotations: Any) -> None:
    """For what only reads, and for what may be repeated."""
    assert leave_of(entry(annotations), invocation("look")) is Retry.SAFE


@pytest.mark.parametrize("annotations", HARMLESS)
def test_nobody_is_trusted_unasked(annotations: Any) -> None:
    """Annotations are the backend's claims about itself."""
    assert leave_of(entry(annotations, trust=False), invocation("look")) is Retry.UNSENT


@pytest.mark.parametrize("annotations", NO_LEAVE)
def test_anything_but_a_plain_true_gives_none(annotations: Any) -> None:
    """However close it comes: whoever is wrong here makes a tool act twice."""
    assert leave_of(entry(annotations), invocation("look")) is Retry.UNSENT


def test_a_backend_that_is_not_discovered_gives_none() -> None:
    """Nothing is known of it yet."""
    assert leave_of(entry(UNKNOWN), invocation("look")) is Retry.UNSENT


def test_only_the_capability_that_is_called_counts() -> None:
    """Another one of the same backend may well write."""
    assert leave_of(entry({"readOnlyHint": True}), invocation("write")) is Retry.UNSENT


def test_only_calls_of_tools_have_annotations() -> None:
    """A prompt of the same name is something else."""
    assert leave_of(entry({"readOnlyHint": True}), invocation("look", method="prompts/get")) is Retry.UNSENT


@pytest.mark.parametrize("retry", [Retry.NEVER, Retry.SAFE])
@pytest.mark.parametrize("annotations", [{"readOnlyHint": True}, {"readOnlyHint": False}, UNKNOWN])
def test_the_operators_own_word_goes_first(retry: Retry, annotations: Any) -> None:
    """``never`` is never, and ``safe`` needs no annotation."""
    assert leave_of(entry(annotations, retry=retry), invocation("look")) is retry
