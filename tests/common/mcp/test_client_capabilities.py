"""Whether a client may be asked: only for what it declared."""

from __future__ import annotations

from typing import Any

import pytest

from common.mcp.client_capabilities import interactive, profile_of, undeclared


@pytest.mark.parametrize(
    ("method", "params", "declared", "missing"),
    [
        ("roots/list", {}, {"roots": {}}, None),
        ("roots/list", {}, {}, {"roots": {}}),
        ("roots/list", {}, {"roots": True}, {"roots": {}}),
        ("sampling/createMessage", {}, {"sampling": {}}, None),
        ("sampling/createMessage", {"tools": []}, {"sampling": {}}, {"sampling": {"tools": {}}}),
        ("sampling/createMessage", {"toolChoice": {}}, {"sampling": {"tools": {}}}, None),
        ("elicitation/create", {}, {"elicitation": {}}, None),
        ("elicitation/create", {"mode": "form"}, {"elicitation": {"form": {}}}, None),
        ("elicitation/create", {}, {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ("elicitation/create", {"mode": "url"}, {"elicitation": {}}, {"elicitation": {"url": {}}}),
        ("elicitation/create", {"mode": "url"}, {"elicitation": {"url": {}}}, None),
        ("elicitation/create", {"mode": "new"}, {"elicitation": {"url": {}}}, {"elicitation": {"new": {}}}),
        ("tools/call", {}, {"tools": {}}, {"tools/call": {}}),
    ],
)
def test_what_is_missing(
    method: str, params: dict[str, Any], declared: dict[str, Any], missing: dict[str, Any] | None
) -> None:
    """The object that the protocol's error names (-32021), or nothing."""
    assert undeclared(method, params, declared) == missing


def test_profiles() -> None:
    """Clients that can be asked for the same are alike, whatever else they declare, in whatever order."""
    one = {"sampling": {}, "roots": {"listChanged": 1}, "experimental": {"x": {}}}
    other = {"roots": {"listChanged": False}, "sampling": {"vendor": {"x": 1}}, "tasks": {}}
    assert profile_of(one) == profile_of(other) == '{"roots":{},"sampling":{}}'
    assert profile_of({"experimental": {}, "sampling": None}) == ""
    assert profile_of({"roots": {"listChanged": True, "x": {}}}) == '{"roots":{"listChanged":true}}'
    parts = {
        "elicitation": {"url": {"x": 1}, "form": {}, "new": {}},
        "sampling": {"tools": {}, "context": True},
    }
    assert interactive(parts) == {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}}
