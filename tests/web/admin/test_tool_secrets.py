"""Secrets of providers go where the settings file sends them, whoever may change tools over the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from common.domain.ids import ToolId
from common.domain.tool import Origin
from common.settings.definitions import tool_from_entry
from tests.web.admin.conftest import Ask
from tests.web.harness import Web

NAMED = {"inject": {"headers": {"Authorization": "Bearer {token}"}}}
REMOTE = {"url": "https://tools.example/mcp", "credentials": NAMED}
LOCAL = {"command": "cmd", "args": ["a"], "credentials": {"inject": {"env": {"TOKEN": "token"}}}}
TOOL = "trusted"


@pytest.fixture
def trusted(admin_web: Web, request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """A tool with credentials, as the settings file has it."""
    entry = dict(request.param)
    registry = admin_web.gateway.registry
    tool = tool_from_entry(TOOL, entry, admin_web.gateway.settings.runtime)
    registry.put(tool, origin=Origin.FILE)
    yield entry
    registry.remove(ToolId(TOOL))


def refused(answer: Any) -> bool:
    return answer.status_code in {400, 422} and "admin.allow_credentials" in answer.json["detail"]


MOVES = [
    (REMOTE, {"url": "https://elsewhere.example/mcp"}),
    (REMOTE, {"url": "http://tools.example/mcp"}),
    (REMOTE, {"credentials": {"inject": {"headers": {"X-Other": "{token}"}}}}),
    (LOCAL, {"command": "other"}),
    (LOCAL, {"args": ["b"]}),
    (LOCAL, {"env": {"NODE_OPTIONS": "--require=x"}}),
]


@pytest.mark.parametrize(("trusted", "patch"), MOVES, indirect=["trusted"])
def test_they_are_not_sent_elsewhere(trusted: dict[str, Any], patch: dict[str, Any], ask: Ask) -> None:
    """By whichever of the ways a definition is changed."""
    query = "?change_transport=true"
    assert refused(ask("PATCH", f"/tools/{TOOL}{query}", json=patch))
    tag = ask("GET", f"/tools/{TOOL}").headers["ETag"]
    assert refused(ask("PUT", f"/tools/{TOOL}", json={**trusted, **patch}, headers={"If-Match": tag}))
    assert refused(ask("POST", "/config/import", json={"tools": {TOOL: {**trusted, **patch}}}))
    assert ask("GET", f"/tools/{TOOL}").headers["ETag"] == tag


@pytest.mark.parametrize("trusted", [REMOTE, LOCAL], indirect=True)
def test_what_does_not_touch_them_may_be_changed(trusted: dict[str, Any], ask: Ask) -> None:
    """And a tool without any is moved as ever."""
    assert ask("PATCH", f"/tools/{TOOL}", json={"description": "new"}).status_code == 200
    moved = "https://elsewhere.example/mcp" if "url" in trusted else "https://tools.example/mcp"
    away = {"credentials": None, **({"url": moved} if "url" in trusted else {"command": "other"})}
    assert ask("PATCH", f"/tools/{TOOL}?change_transport=true", json=away).status_code == 200


def test_a_tool_in_the_place_of_one_that_had_them_has_none(ask: Ask) -> None:
    """Secrets are found by its name."""
    assert refused(ask("PUT", "/tools/again", json=REMOTE, headers={"If-None-Match": "*"}))
    assert ask("GET", "/tools/again").status_code == 404


@pytest.mark.parametrize(("trusted", "patch"), MOVES[:1], indirect=["trusted"])
def test_allow_credentials_lets_them(
    trusted: dict[str, Any], patch: dict[str, Any], ask: Ask, admin_web: Web
) -> None:
    """``admin.allow_credentials``, for those who trust whoever may change tools with the secrets as well."""
    process = admin_web.gateway
    before = process.settings
    allowed = before.admin.model_copy(update={"allow_credentials": True})
    process.settings = before.model_copy(update={"admin": allowed})
    try:
        assert ask("PATCH", f"/tools/{TOOL}", json=patch).status_code == 200
    finally:
        process.settings = before
