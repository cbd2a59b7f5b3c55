"""S1: every route with every kind of credential sent in every way. A route without a row fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.identity.api_keys import ApiKeys
from tests.support.redis import RedisServer
from tests.support.servers.issuer import AUDIENCE, Issuer, forged_by_public_key, jwk
from tests.web.harness import BOTH, INITIALIZE, LEGACY, OWN, Web, request, serving

ISSUER = Issuer(keys=[jwk("ES256", "k1"), jwk("RS256", "r1")])
TOOL = "echo"
OPTIONS_REASON = "says which methods there are, as the specification of HTTP has it, and nothing else"
OPEN: dict[tuple[str, str], str] = {
    ("GET", "/livez"): "says that the process lives; orchestrators have no credential",
    ("GET", "/readyz"): "says whether the process can serve, without a name or a number of any tenant",
    ("GET", "/.well-known/oauth-protected-resource"): "clients read it to get a credential (RFC 9728)",
    (
        "GET",
        "/.well-known/oauth-protected-resource/<path:path>",
    ): "the same for one endpoint; no tool is looked up",
    ("GET", "/ws"): "says that the address is for WebSockets, to whoever does not ask for one",
    ("GET", "/servers/<path:tool>/ws"): "the same for one endpoint; no tool is looked up",
}
"""Routes that ask for no credential, each with why that may be so."""
OPERATORS = {("GET", "/metrics")}
"""Routes for operators: a token of their own opens them, and no caller's credential."""


@dataclass(frozen=True)
class Row:
    """What becomes of a good request: of the session's owner, and of another tenant's caller."""

    own: int
    other: int


ROWS: dict[tuple[str, str], Row] = {
    ("POST", "mcp"): Row(200, 404),
    ("GET", "mcp"): Row(200, 404),
    ("DELETE", "mcp"): Row(200, 404),
    ("GET", "sse"): Row(200, 200),
    ("POST", "messages"): Row(202, 404),
    ("WEBSOCKET", "ws"): Row(426, 426),  # what is asked for next, the version, is left out
}
"""By method and door, at the endpoint of all tools and at that of one."""


def rules(app: Flask) -> list[tuple[str, str]]:
    """Method and path of each route there is."""
    found: list[tuple[str, str]] = []
    for rule in app.url_map.iter_rules():
        methods = {"WEBSOCKET"} if rule.websocket else (rule.methods or set()) - {"HEAD", "OPTIONS"}
        found += [(method, rule.rule) for method in sorted(methods)]
    return found


def key_of(method: str, path: str) -> tuple[str, str]:
    """The row of a route."""
    return method, path.rpartition("/")[2]


# -- credentials ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """With keys, tokens and metadata."""
    file = tmp_path_factory.mktemp("jwks") / "keys.json"
    file.write_bytes(orjson.dumps({"keys": ISSUER.keys}))
    identity = {
        "resolver": ["api_key", "jwt"],
        "jwt": {"issuer": ISSUER.name, "jwks": str(file), "tenant_claim": "tenant", "leeway": 1},
        "oauth": {"resource": AUDIENCE},
    }
    sections = {
        "identity": identity,
        "tenants": {"listed": ["acme", "other"]},
        "metrics": {"token": "the-token-of-metrics"},
    }
    with serving(redis_server, OWN, way="gunicorn", **sections) as found:
        yield found


@pytest.fixture(scope="module")
def credentials(web: Web) -> dict[str, Callable[[], str]]:
    """Each kind; the first three are good, or another's."""
    service = ApiKeys(web.gateway.client, web.gateway.keys)
    issued = {"tenant": "acme", "client": "bot", "subject": "ann", "actor": "test"}
    _, good = service.issue(**issued)  # type: ignore[arg-type]
    _, others = service.issue(tenant="other", client="bot", subject="ann", actor="test")
    record, revoked = service.issue(**issued)  # type: ignore[arg-type]
    service.revoke(record.id, actor="test")
    late = int(time.time()) - 60
    made = {
        "valid key": good,
        "valid": ISSUER.token(),
        "other tenant's key": others,
        "other tenant's": ISSUER.token(tenant="other"),
        "empty": "",
        "malformed": "not a credential",
        "malformed token": "a.b.c",
        "expired": ISSUER.token(exp=late),
        "not yet valid": ISSUER.token(nbf=late + 3600),
        "wrong aud": ISSUER.token(aud="https://other.example"),
        "wrong iss": ISSUER.token(iss="https://evil.example"),
        "alg none": ISSUER.unsigned(),
        "HS/RS mix": forged_by_public_key(ISSUER),
        "unknown kid": ISSUER.token(kid="k9"),
        "revoked": revoked,
        "cut": good[:-1],
    }
    return {name: lambda text=text: text for name, text in made.items()}


WAYS = ("header", "lower case", "X-API-Key", "twice", "query", "cookie")
GOOD = {"valid", "valid key"}
OTHERS = {"other tenant's", "other tenant's key"}


def expected(row: Row, kind: str, way: str, text: str) -> int:
    """The one status of a request."""
    if way in ("twice", "query"):
        return 400
    if way == "cookie" or (way == "X-API-Key" and not text.startswith("cgk_")):
        return 401  # no credential; a token is no key
    return row.own if kind in GOOD else row.other if kind in OTHERS else 401


def sent(way: str, text: str) -> tuple[list[tuple[str, str]], str]:
    """Headers and query."""
    bearer = f"Bearer {text}"
    return {
        "header": ([("Authorization", bearer)], ""),
        "lower case": ([("authorization", bearer.replace("Bearer", "bearer"))], ""),
        "X-API-Key": ([("X-API-Key", text)], ""),
        "twice": ([("Authorization", bearer), ("Authorization", bearer)], ""),
        "query": ([], f"access_token={quote(text)}"),
        "cookie": ([("Cookie", f"access_token={text}; Authorization={text}")], ""),
    }[way]


# -- requests ---------------------------------------------------------------------------------------------

ACME = Caller(tenant=TenantId("acme"), client=ClientId("bot"), subject="ann")


def ask(web: Web, method: str, rule: str, headers: list[tuple[str, str]], query: str) -> TestResponse:
    """A request that is good but for its credential, with a session of acme's."""
    tool = ToolId(TOOL) if "<path:tool>" in rule else None
    path = rule.replace("<path:tool>", TOOL).replace("<path:path>", "mcp")
    door = path.rpartition("/")[2]
    given = [("Accept", BOTH), ("Content-Type", "application/json"), *headers]
    body = orjson.dumps(request("ping"))
    if door == "mcp":
        given += [("Mcp-Session-Id", session(web, tool)), ("MCP-Protocol-Version", LEGACY)]
    if door == "messages":
        name = web.gateway.connections.open(ACME.principal, tool, lambda: None)
        query = "&".join(filter(None, [f"session_id={name}", query]))
    if method == "WEBSOCKET":
        given += [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    return web.http.open(
        path,
        method="GET" if method == "WEBSOCKET" else method,
        query_string=query,
        headers=given,
        data=body if method == "POST" else None,
        buffered=False,
    )


def session(web: Web, tool: ToolId | None) -> str:
    """A session of acme's."""
    made = web.gateway.mcp_sessions.create(
        principal=ACME.principal, version=LEGACY, tool=tool, client_info={}, client_capabilities={}
    )
    return made.id


def test_every_route_has_a_row_and_every_row_a_route(web: Web) -> None:
    """A new route is guarded, or open for a reason that is written down."""
    found = rules(web.app)
    missing = [rule for rule in found if rule not in OPEN.keys() | OPERATORS and key_of(*rule) not in ROWS]
    assert missing == []
    assert OPEN.keys() | OPERATORS <= set(found)
    assert set(ROWS) <= {key_of(*rule) for rule in found}
    assert all(len(reason) > 30 for reason in OPEN.values())


def guarded(web: Web) -> list[tuple[str, str]]:
    return [rule for rule in rules(web.app) if rule not in OPEN.keys() | OPERATORS]


@pytest.mark.parametrize("way", WAYS)
def test_the_matrix(web: Web, credentials: dict[str, Callable[[], str]], way: str) -> None:
    """Each cell has exactly one status; a refusal says how to get in, and nothing of what was sent."""
    wrong: list[str] = []
    for method, rule in guarded(web):
        for kind, make in credentials.items():
            text = make()
            headers, query = sent(way, text)
            with ask(web, method, rule, headers, query) as response:
                want = expected(ROWS[key_of(method, rule)], kind, way, text)
                if response.status_code != want:
                    wrong.append(f"{method} {rule} {kind} by {way}: {response.status_code}, not {want}")
                if response.status_code == 401:
                    check_challenge(response, rule, presented=way != "cookie")
                    assert not text or text not in response.text
    assert wrong == []


def test_without_any_credential_nobody_gets_in(web: Web) -> None:
    """Whatever is asked for; and the modern era knows no exception."""
    for method, rule in guarded(web):
        with ask(web, method, rule, [], "") as response:
            assert response.status_code == 401, (method, rule)
            check_challenge(response, rule, presented=False)
    for path in ("/mcp", f"/servers/{TOOL}/mcp"):
        assert web.modern("server/discover", path=path).status_code == 401
        assert web.post(request("initialize", INITIALIZE), path).status_code == 401


def check_challenge(response: TestResponse, rule: str, *, presented: bool) -> None:
    """It names the metadata of this very endpoint."""
    challenge = response.headers["WWW-Authenticate"]
    door = rule.replace("<path:tool>", TOOL).replace("/messages", "/sse")
    assert f'resource_metadata="{AUDIENCE}/.well-known/oauth-protected-resource{door}"' in challenge
    assert ('error="invalid_token"' in challenge) is presented, challenge


def test_open_routes_look_at_no_credential(web: Web) -> None:
    """A wrong one changes nothing there."""
    for method, rule in OPEN:
        answers = []
        for headers in ([], [("Authorization", "Bearer wrong")]):
            with ask(web, method, rule, headers, "") as response:
                answers.append((response.status_code, response.data))
        assert answers[0] == answers[1]
        assert answers[0][0] in (200, 426, 503), rule


@pytest.mark.parametrize("way", WAYS)
def test_no_credential_of_a_caller_opens_what_is_for_operators(
    web: Web, credentials: dict[str, Callable[[], str]], way: str
) -> None:
    """Neither a good one nor a bad one, nor none."""
    for method, rule in OPERATORS:
        for make in credentials.values():
            headers, query = sent(way, make())
            with ask(web, method, rule, headers, query) as response:
                assert response.status_code == 401, (rule, way)
                assert b"canalgate_" not in response.data


def test_what_flask_adds_says_nothing(web: Web) -> None:
    """HEAD opens no stream, OPTIONS lists methods (see :data:`OPTIONS_REASON`)."""
    for _, rule in guarded(web):
        path = rule.replace("<path:tool>", TOOL)
        response = web.http.options(path)
        assert (response.status_code, response.data) == (200, b"")
        assert web.http.head(path).status_code in (405, 426)


@pytest.mark.parametrize("spelling", ["X_Tenant_Id", "X-Tenant-Id"])
def test_an_internal_header_from_outside_names_nobody(web: Web, spelling: str) -> None:
    """No resolver here takes it, and underscores do not smuggle it in."""
    response = web.modern(
        "tools/list", headers={spelling: "acme", spelling.replace("Tenant", "Client"): "bot"}
    )
    assert response.status_code == 401


def test_the_matched_endpoint_decides(web: Web) -> None:
    """Neither a Host header nor an odd path is a way round."""
    for path in ("//mcp", "/mcp/", "/./mcp", "/servers/echo/../../mcp", "/livez/../mcp", "/mcp;x"):
        response = web.http.post("/", data=b"{}", environ_overrides={"PATH_INFO": path})
        assert response.status_code in (401, 404), path


def other_ways(name: str) -> Any:
    return pytest.param(name, id=name.replace(" ", "-"))


@pytest.mark.parametrize("way", [other_ways("flask"), other_ways("short way")])
def test_all_ways_in_ask_the_same(redis_server: RedisServer, way: str) -> None:
    """The two that do not pass gunicorn's parser."""
    keys = [{"key": "good", "tenant": "acme", "client": "bot"}]
    sections = {"identity": {"resolver": "api_key", "api_keys": keys}, "tenants": {"listed": ["acme"]}}
    with serving(redis_server, 3, way=way, **sections) as found:
        for headers, query, status in (
            ({}, "", 401),
            ({"X-API-Key": "good"}, "", 200),
            ({"X-API-Key": "good"}, "?access_token=good", 400),
            ({"X-API-Key": "good", "Authorization": "Bearer bad"}, "", 400),
        ):
            response = found.modern("tools/list", path=f"/mcp{query}", headers=headers)
            assert response.status_code == status, (headers, query)
