"""Who may call over HTTP: each request is identified anew, and a session is no credential."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import TestResponse

from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.ports import RequestFacts
from common.settings import IdentitySettings
from tests.web.harness import INITIALIZE, Serve, Web, body, error, notification, request

CALL = {"name": "echo__add", "arguments": {}}
BY_HEADER = {"identity": {"resolver": "header"}, "tenants": {"listed": ["acme", "other"]}}
BY_KEY = {
    "identity": {
        "resolver": "api_key",
        "api_keys": [
            {"key": "key-acme-1", "tenant": "acme", "client": "one"},
            {"key": "key-acme-2", "tenant": "acme", "client": "two"},
        ],
    },
    "tenants": {"listed": ["acme"]},
}


def as_caller(tenant: str, client: str) -> dict[str, str]:
    return {"X-Tenant-Id": tenant, "X-Client-Id": client}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def every_way(web: Web, session: str, headers: dict[str, str]) -> dict[str, TestResponse]:
    """Each kind of request a client can make, with these headers."""
    with_session = {"Mcp-Session-Id": session, **headers}
    return {
        "initialize": web.post(request("initialize", INITIALIZE), headers=headers),
        "legacy call": web.legacy(session, "tools/call", CALL, headers=headers),
        "legacy list": web.legacy(session, "tools/list", headers=headers),
        "notification": web.post(notification("notifications/initialized"), headers=with_session),
        "modern call": web.modern("tools/call", CALL, headers=headers),
        "modern list": web.modern("tools/list", headers=headers),
        "discover": web.modern("server/discover", headers=headers),
        "own endpoint": web.modern("tools/list", path="/servers/echo/mcp", headers=headers),
        "delete": web.http.delete("/mcp", headers=with_session),
    }


def test_who_is_unknown_gets_401_everywhere(serve: Serve) -> None:
    """With a challenge; a good session id does not help, and nothing is said about tools."""
    web = serve(**BY_KEY)
    session = web.initialize(headers=bearer("key-acme-1"))
    for headers in ({}, bearer("wrong"), {"X-API-Key": "wrong"}):
        for way, response in every_way(web, session, headers).items():
            assert error(response) == (401, -32001), way
            wrong = ', error="invalid_token"' if headers else ""
            assert response.headers["WWW-Authenticate"] == f'Bearer realm="canalgate"{wrong}'
    assert web.legacy(session, "ping", headers=bearer("key-acme-1")).status_code == 200
    assert web.worker.taken == []


def test_identity_comes_before_the_body(serve: Serve) -> None:
    """An unknown caller cannot make us parse anything."""
    web = serve(**BY_KEY)
    for raw in (b"", b"nonsense", b"[" * 10_000):
        assert error(web.post(raw)) == (401, -32001)
    assert error(web.post(b"x", headers={"Content-Type": "text/plain"})) == (401, -32001)


def test_a_tenant_nobody_listed_gets_403(serve: Serve) -> None:
    """For whatever it asks."""
    web = serve(**BY_HEADER)
    evil = as_caller("evil", "one")
    for response in (
        web.post(request("initialize", INITIALIZE), headers=evil),
        web.modern("tools/call", CALL, headers=evil),
        web.modern("tools/list", headers=evil),
        web.modern("server/discover", headers=evil),
    ):
        assert error(response) == (403, -32003)
        assert "Mcp-Session-Id" not in response.headers
    assert web.worker.taken == []


def test_a_session_belongs_to_who_opened_it(serve: Serve) -> None:
    """Another tenant, and another client of the same one, are told that there is none."""
    web = serve(**BY_HEADER)
    mine = as_caller("acme", "one")
    session = web.initialize(headers=mine)
    unknown = web.legacy("unknown", "ping", headers=mine)
    for other in (as_caller("acme", "two"), as_caller("other", "one")):
        stolen = web.legacy(session, "ping", headers=other)
        assert error(stolen) == (404, -32600)
        assert body(stolen) == body(unknown)
        response = web.http.delete("/mcp", headers={"Mcp-Session-Id": session, **other})
        assert error(response) == (404, -32600)
        cancel = notification("notifications/cancelled", {"requestId": 1})
        assert web.post(cancel, headers={"Mcp-Session-Id": session, **other}).status_code == 404
    assert web.legacy(session, "ping", headers=mine).status_code == 200


def test_ids_that_run_together_are_two_callers(serve: Serve) -> None:
    """``a:b``, ``c`` is not ``a``, ``b:c``."""
    web = serve(identity={"resolver": "header"}, tenants={"allow_unlisted": True})
    session = web.initialize(headers=as_caller("a:b", "c"))
    assert error(web.legacy(session, "ping", headers=as_caller("a", "b:c"))) == (404, -32600)


def test_the_worker_is_told_who_called(serve: Serve) -> None:
    """As the resolver said, for each call."""
    web = serve(**BY_HEADER)
    for client in ("one", "two"):
        web.modern("tools/call", CALL, headers=as_caller("acme", client))
    assert [(c.invocation.caller.tenant, c.invocation.caller.client) for c in web.worker.taken] == [
        ("acme", "one"),
        ("acme", "two"),
    ]


def test_an_ambiguous_caller_gets_400_everywhere(serve: Serve) -> None:
    """WSGI joins two headers by a comma: refused by status, not by a body under 200."""
    web = serve(**BY_HEADER)
    session = web.initialize(headers=as_caller("acme", "one"))
    for way, response in every_way(web, session, as_caller("acme,other", "one")).items():
        assert error(response) == (400, -32602), way
        assert body(response)["error"]["data"]["field"] == "X-Tenant-Id"


class Says:
    """A resolver that does what it is told."""

    answer: Any = None
    seen: list[RequestFacts]

    def __init__(self, _settings: IdentitySettings) -> None:
        """As the port says."""

    def resolve(self, request: RequestFacts) -> Caller | None:
        Says.seen.append(request)
        if isinstance(Says.answer, Exception):
            raise Says.answer
        return Says.answer  # type: ignore[no-any-return]


@pytest.fixture
def says(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A web process that asks it."""
    monkeypatch.setattr(Says, "seen", [], raising=False)
    monkeypatch.setattr(Says, "answer", Caller(tenant=TenantId("default"), client=ClientId("c")))
    return serve(identity={"resolver": f"{__name__}:Says"}, tenants={"allow_unlisted": True})


@pytest.mark.parametrize(
    ("answer", "status"),
    [(RuntimeError("secret"), (500, -32603)), (None, (401, -32001)), ("acme", (500, -32603))],
)
def test_a_broken_resolver_lets_nobody_in(
    says: Web, monkeypatch: pytest.MonkeyPatch, answer: Any, status: tuple[int, int]
) -> None:
    """The same everywhere, and no word of why."""
    session = says.initialize()
    monkeypatch.setattr(Says, "answer", answer)
    for way, response in every_way(says, session, {}).items():
        assert error(response) == status, way
        assert b"secret" not in response.data


def test_the_resolver_sees_the_request(says: Web) -> None:
    """Header names in lower case, the peer's address, the path."""
    says.modern("tools/list", path="/servers/echo/mcp?a=b", headers={"X-Custom-Thing": "ü"})
    (found,) = Says.seen
    assert found.headers["x-custom-thing"]
    assert found.headers["host"] == "localhost"
    assert (found.remote_address, found.path) == ("127.0.0.1", "/servers/echo/mcp")
    assert (found.method, found.query, found.from_proxy) == ("POST", "a=b", True)
