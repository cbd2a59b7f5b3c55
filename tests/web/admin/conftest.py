"""A web process with the admin API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from tests.support.redis import RedisServer
from tests.web.harness import SHARED, Web, serving

TOKENS = {role: f"the-token-of-the-{role}" for role in ("viewer", "operator", "admin")}
SETTINGS = {
    "enabled": True,
    "tokens": [{"name": f"{role}-1", "token": token, "role": role} for role, token in TOKENS.items()],
}
EGRESS = {"allowed_commands": ["cmd", "x", "other"]}
POLICY = {"rules": [{"id": "no-drop", "effect": "deny", "mcp_tools": ["drop"]}]}
PREFIX = "/admin/v1"
Ask = Callable[..., TestResponse]


@pytest.fixture(scope="module")
def admin_web(redis_server: RedisServer) -> Iterator[Web]:
    """One for a module's tests."""
    with serving(redis_server, SHARED, admin=SETTINGS, egress=EGRESS, policy=POLICY) as web:
        yield web


@pytest.fixture
def ask(admin_web: Web) -> Ask:
    """Ask the admin API: ``ask("GET", "/tools", role="viewer", json={...}, headers={...})``."""

    def asked(
        method: str,
        path: str,
        *,
        role: str | None = "admin",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> TestResponse:
        token = {} if role is None else {"Authorization": f"Bearer {TOKENS[role]}"}
        if "json" in more:
            more["data"], token["Content-Type"] = orjson.dumps(more.pop("json")), "application/json"
        return admin_web.http.open(PREFIX + path, method=method, headers={**token, **(headers or {})}, **more)

    return asked
