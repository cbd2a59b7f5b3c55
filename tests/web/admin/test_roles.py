"""Who may do what: every route, for nobody, a stranger and each role. A route without a row fails."""

from __future__ import annotations

import re

import pytest
from flask_openapi.openapi import OpenAPI

from tests.web.admin.conftest import PREFIX, Ask
from tests.web.harness import Web

ROLES = ("viewer", "operator", "admin")
ROUTES: dict[tuple[str, str], str] = {
    ("GET", "/openapi.json"): "viewer",
    ("GET", "/status"): "viewer",
    ("GET", "/workers"): "viewer",
    ("GET", "/queues"): "viewer",
    ("GET", "/config"): "viewer",
    ("GET", "/tools"): "viewer",
    ("GET", "/tools/<path:tool>"): "viewer",
    ("GET", "/tools/<path:tool>/schemas"): "viewer",
    ("GET", "/tools/<path:tool>/drain"): "viewer",
    ("PUT", "/tools/<path:tool>"): "admin",
    ("PATCH", "/tools/<path:tool>"): "admin",
    ("DELETE", "/tools/<path:tool>"): "admin",
    ("POST", "/tools/<path:tool>/enable"): "operator",
    ("POST", "/tools/<path:tool>/disable"): "operator",
    ("POST", "/tools/<path:tool>/drain"): "operator",
    ("POST", "/tools/<path:tool>/undrain"): "operator",
    ("POST", "/tools/<path:tool>/refresh"): "operator",
    ("POST", "/tools/<path:tool>/circuit/reset"): "operator",
    ("POST", "/tools/<path:tool>/circuit/trip"): "operator",
    ("GET", "/sessions"): "viewer",
    ("DELETE", "/sessions/<session>"): "operator",
    ("GET", "/calls"): "viewer",
    ("DELETE", "/calls/<call>"): "operator",
    ("GET", "/dead-letters"): "viewer",
    ("GET", "/dead-letters/<letter>"): "viewer",
    ("GET", "/dead-letters/<letter>/message"): "admin",
    ("DELETE", "/dead-letters/<letter>"): "operator",
    ("GET", "/config/export"): "viewer",
    ("POST", "/config/import"): "admin",
    ("GET", "/tenants"): "viewer",
    ("GET", "/tenants/<path:tenant>"): "viewer",
    ("GET", "/tenants/<path:tenant>/usage"): "viewer",
    ("PUT", "/tenants/<path:tenant>"): "admin",
    ("DELETE", "/tenants/<path:tenant>"): "admin",
    ("GET", "/keys"): "viewer",
    ("POST", "/keys"): "admin",
    ("POST", "/keys/<key>/rotate"): "admin",
    ("DELETE", "/keys/<key>"): "admin",
    ("GET", "/quarantine"): "viewer",
    ("GET", "/tools/<path:tool>/quarantine"): "viewer",
    ("GET", "/tools/<path:tool>/quarantine/diff"): "viewer",
    ("POST", "/tools/<path:tool>/quarantine/approve"): "admin",
    ("POST", "/tools/<path:tool>/quarantine/reject"): "admin",
    ("GET", "/policy"): "viewer",
    ("POST", "/policy/test"): "operator",
    ("POST", "/credentials/flush"): "operator",
    ("POST", "/credentials/rotate"): "operator",
    ("GET", "/audit"): "viewer",
    ("GET", "/audit/stream"): "viewer",
}
"""Method and route -> the least role that it needs."""

PARAMETER = re.compile("<(?:path:)?([a-z]+)>")
VALUES = {
    "letter": "1-1",
    "tool": "no-such-tool",
    "session": "x",
    "call": "x",
    "key": "0" * 16,
    "tenant": "no-such-tenant",
}
CASE = {"tenant": "t", "client": "c", "tool": "no-such-tool", "name": "x"}
VERDICT = {"name": "x", "digest": "0" * 64}
BODIES: dict[str, dict[str, object]] = {
    "trip": {"reason": "x"},
    "keys": {"tenant": "t", "client": "c"},
    "test": CASE,
    "import": {"tools": {}},
    "rotate": {},
    "flush": {},
    **dict.fromkeys(("approve", "reject"), VERDICT),
}
"""Last part of a rule -> a body that is valid."""


def routes(web: Web) -> set[tuple[str, str]]:
    return {
        (method, str(rule.rule).removeprefix(PREFIX))
        for rule in web.app.url_map.iter_rules()
        if str(rule.rule).startswith(PREFIX)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def ask_route(ask: Ask, route: tuple[str, str], role: str | None, **headers: str) -> int:
    """Ask for something that is not there, in a form that is valid."""
    method, rule = route
    path = PARAMETER.sub(lambda found: VALUES[found[1]], rule)
    body = BODIES.get(rule.rpartition("/")[2], {"command": "x"} if method in {"PUT", "PATCH"} else None)
    sent = {} if body is None or method == "GET" else {"json": body}
    return ask(method, path, role=role, headers=headers, **sent).status_code


def test_every_route_has_a_row(admin_web: Web) -> None:
    """A new route says who may use it."""
    assert routes(admin_web) == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_nobody_and_strangers_are_refused(ask: Ask, route: tuple[str, str]) -> None:
    """Without a token, with another one, in another scheme, in the query: 401."""
    assert ask_route(ask, route, None) == 401
    for value in ("Bearer no-such-token-at-all", "Basic dG9rZW4=", "Bearer ", "the-token-of-the-admin"):
        assert ask_route(ask, route, None, Authorization=value) == 401


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
def test_a_role_may_do_what_it_may_do(ask: Ask, route: tuple[str, str]) -> None:
    """403 below the role that the route needs, and none from there on."""
    least = ROLES.index(ROUTES[route])
    for rank, role in enumerate(ROLES):
        status = ask_route(ask, route, role)
        assert (status == 403) == (rank < least), (role, status)
        assert status != 401


def test_a_refusal_says_what_would_do(ask: Ask) -> None:
    """Problem details, and the scheme."""
    answer = ask("GET", "/status", role=None)
    assert answer.content_type == "application/problem+json"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="canalgate-admin"'
    answer = ask("POST", "/tools/echo/disable", role="viewer")
    assert answer.status_code == 403
    assert "needs the role operator" in answer.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/tools/a%0Ab/circuit/trip", 404), ("PATCH", "/status", 405)],
)
def test_what_has_no_route_is_a_problem_too(ask: Ask, method: str, path: str, status: int) -> None:
    """A name with an end of line in it has none; a method that is not served names those that are."""
    found = ask(method, path)
    assert (found.status_code, found.content_type) == (status, "application/problem+json")
    assert ("Allow" in found.headers) == (status == 405)


def test_the_document_describes_every_route(admin_web: Web, ask: Ask) -> None:
    """OpenAPI names each of them, and nothing else."""
    assert isinstance(admin_web.app, OpenAPI)
    document = ask("GET", "/openapi.json", role="viewer").json
    told = {
        (method.upper(), path.removeprefix(PREFIX))
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert told == {
        (method, PARAMETER.sub(r"{\1}", rule)) for method, rule in ROUTES if rule != "/openapi.json"
    }


def test_the_document_tells_of_problems(ask: Ask) -> None:
    """In the type in which they are sent, of which the document has the schema."""
    document = ask("GET", "/openapi.json").json
    assert "code" in document["components"]["schemas"]["Problem"]["properties"]
    for operations in document["paths"].values():
        for operation in operations.values():
            assert list(operation["responses"]["422"]["content"]) == ["application/problem+json"]


def test_nothing_is_served_unless_it_is_switched_on(web: Web) -> None:
    """`admin.enabled` is off by default."""
    assert web.http.get(PREFIX + "/status", headers={"Authorization": "Bearer x"}).status_code == 404
