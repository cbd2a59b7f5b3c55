"""Policy at every door: lists show what may be used, and what may not be is to its caller as if it were not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from common.audit.journal import Journal
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller
from common.mcp.revisions import Era
from common.ports import RequestFacts
from gateway_web.ingress.changes import ListDigests, changed
from gateway_web.ingress.duplex import Duplex
from gateway_web.ingress.methods import HANDLERS
from tests.support.redis import RedisServer
from tests.web.harness import INITIALIZE, MODERN, OWN, Web, body, events, request, serving

HIDDEN, ABSENT = "slow", "nope"
RULES = [
    {"effect": "deny", "tenants": ["small"], "tools": [HIDDEN, "it's/a b%c"]},
    {"effect": "deny", "tenants": ["small"], "mcp_tools": ["sub*"]},
    {"effect": "deny", "tenants": ["small"], "resources": ["note://a", "note://secret/*"]},
    {"effect": "deny", "tenants": ["noprompts"], "prompts": ["*"]},
    {"effect": "deny", "tenants": ["blind"], "tools": ["echo", HIDDEN]},
    {"effect": "deny", "tenants": ["piecemeal"], "mcp_tools": ["wait"], "resources": ["*"]},
]
POLICY = {
    "rules": RULES,
    "tools": {
        "unasked": [{"effect": "allow", "scopes": ["in"]}],
        "echo": [{"effect": "deny", "tenants": ["noecho"], "resources": ["note://a"]}],
    },
}
BIG, SMALL = {"x-tenant": "big"}, {"x-tenant": "small"}


class Resolver:
    """Believes the headers, scopes included."""

    def __init__(self, _settings: object) -> None:
        pass

    def resolve(self, facts: RequestFacts) -> Caller:
        """Whoever they name."""
        return caller_of(facts.headers)


def caller_of(headers: Mapping[str, str]) -> Caller:
    scopes = frozenset(headers.get("x-scopes", "").split())
    return Caller(tenant=TenantId(headers["x-tenant"]), client=ClientId("c"), scopes=scopes)


@pytest.fixture(scope="module")
def shared(redis_server: RedisServer) -> Iterator[Web]:
    with serving(
        redis_server,
        OWN,
        identity={"resolver": "tests.web.ingress.test_policy:Resolver"},
        tenants={"allow_unlisted": True},
        policy=POLICY,
    ) as web:
        yield web


@pytest.fixture
def web(shared: Web) -> Iterator[Web]:
    shared.worker.reset()
    yield shared
    shared.nothing_waits()


def names(web: Web, kind: str, who: Mapping[str, str], path: str = "/mcp") -> list[str]:
    """What a list holds for a caller, in either era."""
    member, key = {
        "tools": ("tools", "name"),
        "resources": ("resources", "uri"),
        "resources/templates": ("resourceTemplates", "uriTemplate"),
        "prompts": ("prompts", "name"),
    }[kind]
    modern = body(web.modern(f"{kind}/list", path=path, headers=who))["result"]
    session = web.initialize(path, headers=who)
    legacy = body(web.legacy(session, f"{kind}/list", {}, path=path, headers=who))["result"]
    found = [item[key] for item in modern[member]]
    assert found == [item[key] for item in legacy[member]]
    return found


def test_lists_show_what_may_be_used(web: Web) -> None:
    """At the endpoint of all tools."""
    assert names(web, "tools", BIG) == [
        "echo__add",
        "echo__sub__tract",
        "it_x0027_s_x002F_a_x0020_b_x0025_c__add",
        "slow__wait",
    ]
    assert names(web, "tools", SMALL) == ["echo__add"]
    assert names(web, "resources", BIG) == ["note://a", "canalgate://slow/note%3A%2F%2Fa", "slow://b"]
    assert names(web, "resources", SMALL) == []
    assert names(web, "resources/templates", SMALL) == ["note://{id}/page"]
    assert names(web, "prompts", SMALL) == ["echo__greet"]
    assert names(web, "prompts", {"x-tenant": "noprompts"}) == []


def test_lists_of_one_tool_show_what_may_be_used(web: Web) -> None:
    """At its own endpoint, under its own names."""
    assert names(web, "tools", SMALL, "/servers/echo/mcp") == ["add"]
    assert names(web, "resources", SMALL, "/servers/echo/mcp") == []
    assert names(web, "prompts", {"x-tenant": "noprompts"}, "/servers/echo/mcp") == []


def test_what_is_listed_is_what_may_be_called(web: Web) -> None:
    """The same decision: for each caller, each listed name works and each other is denied or not there."""
    everything = names(web, "tools", BIG)
    for who in (BIG, SMALL):
        listed = names(web, "tools", who)
        for name in everything:
            answer = body(web.modern("tools/call", {"name": name}, headers=who))
            assert ("result" in answer) is (name in listed), (who, name)


def test_a_tool_of_which_nothing_may_be_used_is_not_there(web: Web) -> None:
    """Also if it is denied piece by piece; not for others."""
    piecemeal = {"x-tenant": "piecemeal"}
    assert "slow__wait" not in names(web, "tools", piecemeal)
    for who in (SMALL, piecemeal):
        answer = web.modern("tools/call", {"name": "wait"}, path="/servers/slow/mcp", headers=who)
        assert code_of(answer) == "TOOL_NOT_FOUND"
    answer = web.modern("tools/call", {"name": "wait"}, path="/servers/slow/mcp", headers=BIG)
    assert "result" in body(answer)


@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize(
    ("path", "method", "hidden", "absent", "capability"),
    [
        ("/servers/{}/mcp", "tools/call", {"name": "wait"}, {"name": "wait"}, "wait"),
        ("/mcp", "tools/call", {"name": "slow__wait"}, {"name": "nope__wait"}, "wait"),
        ("/mcp", "resources/read", {"uri": "slow://b"}, {"uri": "nope://b"}, "slow://b"),
        (
            "/mcp",
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "slow__p"}, "argument": {"name": "a", "value": ""}},
            {"ref": {"type": "ref/prompt", "name": "nope__p"}, "argument": {"name": "a", "value": ""}},
            "slow__p",
        ),
    ],
    ids=["own", "name", "uri", "reference"],
)
def test_a_denial_that_its_caller_does_not_see_is_recorded(
    web: Web,
    era: str,
    path: str,
    method: str,
    hidden: dict[str, Any],
    absent: dict[str, Any],
    capability: str,
) -> None:
    """With his tenant and the tool; what is not there is recorded as well, in the same steps, and otherwise."""
    web.gateway.refusals.tick(at_once=True)
    journal = Journal(web.gateway.client, web.gateway.keys)
    answers, told, who = [], [], {"x-tenant": "blind"}
    for tool, params in ((HIDDEN, hidden), (ABSENT, absent)):
        before, place = journal.newest_id(), path.format(tool)
        if era == "modern":
            answer = web.modern(method, params, path=place, headers=who)
        else:
            # A session is of one endpoint, and nobody gets one of a tool that is not there.
            session = web.initialize("/mcp", headers=who)
            named = params if path == "/mcp" else {"name": f"{tool}__wait"}
            answer = web.legacy(session, method, named, headers=who)
        answers.append((answer.status_code, answer.text.replace(HIDDEN, ABSENT)))
        told.append([record.fields for record in journal.after(before) if record.kind == "policy_decision"])
    assert answers[0] == answers[1]
    assert [len(found) for found in told] == [1, 1]
    ((denied,), (missed,)) = told
    assert (denied["outcome"], denied["tenant"], denied["tool"]) == ("deny", "blind", HIDDEN)
    assert (denied["error_code"], denied["capability"]) == ("TOOL_NOT_FOUND", capability)
    assert "hidden from the caller by policy" in denied["reason"]
    assert (missed["outcome"], missed["tenant"], missed["error_code"]) == ("deny", "blind", "TOOL_NOT_FOUND")
    assert "policy" not in missed["reason"]


def test_a_resource_that_is_hidden_leaves_its_uri_to_the_next_tool(web: Web) -> None:
    """As if the first had never listed it."""
    who = {"x-tenant": "noecho"}
    assert names(web, "resources", who) == ["note://a", "slow://b"]
    web.modern("resources/read", {"uri": "note://a"}, headers=who)
    assert web.worker.next_call().invocation.tool == "slow"


REQUESTS: dict[str, dict[str, Any] | None] = {
    "initialize": INITIALIZE,
    "server/discover": {},
    "ping": {},
    "logging/setLevel": {"level": "info"},
    "tools/list": {},
    "resources/list": {},
    "resources/templates/list": {},
    "prompts/list": {},
    "tools/call": {"name": "wait"},
    "resources/read": {"uri": "slow://b"},
    "resources/subscribe": {"uri": "slow://b"},
    "resources/unsubscribe": {"uri": "slow://b"},
    "prompts/get": {"name": "p"},
    "completion/complete": {
        "ref": {"type": "ref/prompt", "name": "p"},
        "argument": {"name": "a", "value": "v"},
    },
    "subscriptions/listen": {"notifications": {"toolsListChanged": True}},
}
"""Every method with params. A method without a row fails :func:`test_every_method_has_a_row`."""
NAMED = {
    "tools/call": ("name", "{tool}__x"),
    "prompts/get": ("name", "{tool}__x"),
    "resources/read": ("uri", "canalgate://{tool}/b%3A%2F%2Fb"),
    "resources/subscribe": ("uri", "canalgate://{tool}/b%3A%2F%2Fb"),
    "resources/unsubscribe": ("uri", "canalgate://{tool}/b%3A%2F%2Fb"),
}
"""How what belongs to a tool is named at the endpoint of all tools."""
ASKS_NO_TOOL = {"ping", "logging/setLevel"}


def test_every_method_has_a_row() -> None:
    """Both eras; a new method must say here how it is judged."""
    assert set(REQUESTS) == {*HANDLERS[Era.LEGACY], *HANDLERS[Era.MODERN], "subscriptions/listen"}


UNLIKE = {"Content-Length", "Server-Timing"}
"""Headers that differ from answer to answer."""


def plain(response: TestResponse, tool: str) -> tuple[int, list[tuple[str, str]], str]:
    """An answer without the name of the tool that was asked for."""
    headers = [(name, value) for name, value in response.headers if name not in UNLIKE]
    if response.mimetype == "text/event-stream":
        stream = response.response
        first = next(iter(stream))
        response.close()
        return response.status_code, headers, bytes(first).decode().replace(tool, "TOOL")
    return response.status_code, headers, response.text.replace(tool, "TOOL")


@pytest.mark.parametrize("method", sorted({*HANDLERS[Era.MODERN], "subscriptions/listen"}))
def test_a_hidden_tool_answers_a_modern_client_like_none(web: Web, method: str) -> None:
    """Status, headers and body, at its own endpoint and at that of all tools."""
    params = REQUESTS[method]

    def at_its_own(tool: str) -> tuple[Any, ...]:
        return plain(web.modern(method, params, path=f"/servers/{tool}/mcp", headers=SMALL), tool)

    assert at_its_own(HIDDEN) == at_its_own(ABSENT)
    if method != "subscriptions/listen":
        assert "TOOL_NOT_FOUND" in at_its_own(HIDDEN)[2]
    if method in NAMED:
        assert named(web, method, HIDDEN) == named(web, method, ABSENT)
    if method == "completion/complete":
        for tool in (HIDDEN, ABSENT):
            ref = {"type": "ref/prompt", "name": f"{tool}__x"}
            answer = web.modern(method, {**params, "ref": ref}, headers=SMALL)  # type: ignore[dict-item]
            assert code_of(answer) == "TOOL_NOT_FOUND"
    # Whose a URI is that nobody lists: the only tool's here that has resources.
    assert {call.invocation.tool for call in web.worker.taken} <= {"echo"}


def code_of(answer: TestResponse) -> object:
    """The code of an error; None for an answer that is none."""
    return body(answer).get("error", {}).get("data", {}).get("code")


def named(web: Web, method: str, tool: str) -> tuple[Any, ...]:
    member, name = NAMED[method]
    return plain(web.modern(method, {member: name.format(tool=tool)}, headers=SMALL), tool)


@pytest.mark.parametrize("method", sorted(set(HANDLERS[Era.LEGACY]) - ASKS_NO_TOOL))
def test_a_hidden_tool_answers_a_legacy_client_like_none(web: Web, method: str) -> None:
    """Also in a session of its own from when it was not hidden: scopes are looked at with every request."""
    path = "/servers/unasked/mcp"
    session = web.initialize(path, headers={**SMALL, "x-scopes": "in"})
    answer = web.legacy(session, method, REQUESTS[method], path=path, headers=SMALL)
    absent = web.post(request("initialize", INITIALIZE), "/servers/nope/mcp", headers=SMALL)
    assert code_of(answer) == "TOOL_NOT_FOUND"
    assert plain(answer, "unasked")[2] == plain(absent, "nope")[2]
    if method in NAMED:
        session = web.initialize(headers=SMALL)
        found = []
        for tool in (HIDDEN, ABSENT):
            member, name = NAMED[method]
            answer = web.legacy(session, method, {member: name.format(tool=tool)}, headers=SMALL)
            found.append(plain(answer, tool))
        assert found[0] == found[1]
    assert {call.invocation.tool for call in web.worker.taken} <= {"echo"}


@pytest.mark.parametrize("door", ["sse", "ws"])
def test_a_hidden_tool_has_no_other_door(web: Web, door: str) -> None:
    """Nor has one that is not there."""
    found = []
    for tool in (HIDDEN, ABSENT):
        headers = {**SMALL, "Accept": "text/event-stream", "Upgrade": "websocket", "Connection": "Upgrade"}
        answer = web.http.get(f"/servers/{tool}/{door}", headers=headers)
        found.append(plain(answer, tool))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("method", "denied"),
    [
        ("tools/call", [{"name": "sub__tract"}, {"name": "subway"}]),
        ("resources/read", [{"uri": "note://a"}, {"uri": "note://secret/none"}, {"uri": "NOTE://%61"}]),
    ],
)
def test_what_is_denied_is_denied_whether_it_exists_or_not(
    web: Web, method: str, denied: list[dict[str, str]]
) -> None:
    """The same answer, in both eras, and nothing reaches the backend."""
    path = "/servers/echo/mcp"
    session = web.initialize(path, headers=SMALL)
    modern = {web.modern(method, params, path=path, headers=SMALL).text for params in denied}
    legacy = {web.legacy(session, method, params, path=path, headers=SMALL).text for params in denied}
    assert len(modern) == len(legacy) == 1
    for text in (*modern, *legacy):
        error = orjson.loads(text)["error"]
        assert (error["code"], error["data"]) == (-32006, {"code": "POLICY_DENIED", "reason": "rule"})
    assert web.worker.taken == []
    assert "result" in body(web.modern(method, denied[0], path=path, headers=BIG))


def code(answer: Mapping[str, Any]) -> str | None:
    """Of its error, if it is one."""
    return answer.get("error", {}).get("data", {}).get("code")  # type: ignore[no-any-return]


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe", "resources/read"])
@pytest.mark.parametrize(
    "uri", ["note://a", "note:%2F%2Fa", "note://a#x", "Note://A", "note://b/../a", "note://%2561"]
)
def test_no_spelling_of_a_denied_resource_passes(web: Web, method: str, uri: str) -> None:
    """Whatever is asked about it, and by whichever spelling."""
    path = "/servers/echo/mcp"
    session = web.initialize(path, headers=SMALL)
    answer = body(web.legacy(session, method, {"uri": uri}, path=path, headers=SMALL))
    assert code(answer) == "POLICY_DENIED"
    qualified = "canalgate://echo/" + uri.replace("%", "%25").replace(":", "%3A").replace("/", "%2F").replace(
        "#", "%23"
    )
    session = web.initialize(headers=SMALL)
    answer = body(web.legacy(session, method, {"uri": qualified}, headers=SMALL))
    assert code(answer) == "POLICY_DENIED"
    assert web.worker.taken == []


def test_a_completion_is_judged_by_what_it_completes(web: Web) -> None:
    """The prompt, or the template."""
    argument = {"name": "a", "value": "v"}
    no = {"x-tenant": "noprompts"}
    prompt = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": argument}
    template = {"ref": {"type": "ref/resource", "uri": "note://secret/{x}"}, "argument": argument}
    for params, who, code in (
        (prompt, no, "POLICY_DENIED"),
        (template, SMALL, "POLICY_DENIED"),
        (prompt, SMALL, None),
    ):
        answer = body(web.modern("completion/complete", params, path="/servers/echo/mcp", headers=who))
        assert answer.get("error", {}).get("data", {}).get("code") == code


def test_a_resource_of_no_tool_that_is_seen_is_not_found(web: Web) -> None:
    """At the endpoint of all tools a URI that only a hidden tool lists is as one that none lists: it goes to the one
    tool that may know it.
    """
    found = [web.modern("resources/read", {"uri": uri}, headers=SMALL) for uri in ("slow://b", "slow://c")]
    assert plain(found[0], "slow://b") == plain(found[1], "slow://c")
    assert {call.invocation.tool for call in web.worker.taken} == {"echo"}


def test_denied_resources_are_not_watched(web: Web) -> None:
    """A modern client is told which of its resources are; what is denied is not among them."""
    wanted = {"notifications": {"resourceSubscriptions": ["note://a", "note://b/page"]}}
    stream = iter(web.modern("subscriptions/listen", wanted, headers=SMALL, buffered=False).response)
    (message,) = events(bytes(next(stream)))
    assert message["params"]["notifications"] == {"resourceSubscriptions": ["note://b/page"]}
    assert {call.invocation.params["uri"] for call in web.worker.taken} == {"note://b/page"}
    stream.close()  # type: ignore[attr-defined]


def test_lists_change_for_those_who_see_the_change(web: Web) -> None:
    """The digests are of the lists as they are seen; callers of one kind share them."""
    digests = ListDigests(web.gateway)
    big, small = (digests.of(caller_of(who), None) for who in (BIG, SMALL))
    assert changed(big, small) == ["tools", "resources"]
    assert digests.of(caller_of({"x-tenant": "other"}), None) is big
    assert digests.of(caller_of(SMALL), ToolId(HIDDEN)) == digests.of(caller_of(SMALL), ToolId(ABSENT))


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_connection_s_requests_are_judged_as_well(web: Web, era: str) -> None:
    """Over HTTP+SSE and WebSocket each message is run for its caller."""
    duplex = Duplex(web.gateway, ListDigests(web.gateway), caller_of(SMALL), None)
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    described = {"_meta": meta} if era == "modern" else {}

    def ask(method: str, **params: object) -> dict[str, Any]:
        duplex.hear(orjson.dumps(request(method, {**params, **described})), caller_of(SMALL))
        while (raw := duplex.outbox.get(5)) is None:
            pass  # it was only woken
        return orjson.loads(raw)  # type: ignore[no-any-return]

    try:
        if era == "legacy":
            ask("initialize", **INITIALIZE)
        assert [tool["name"] for tool in ask("tools/list")["result"]["tools"]] == ["echo__add"]
        assert ask("tools/call", name="echo__sub__tract")["error"]["data"]["code"] == "POLICY_DENIED"
        assert ask("tools/call", name="slow__wait")["error"]["data"]["code"] == "TOOL_NOT_FOUND"
    finally:
        duplex.close()


def test_denied_calls_are_recorded_with_their_rule_and_cannot_fill_the_journal(web: Web) -> None:
    """The first at once, the others of the same kind as a number."""
    gateway = web.gateway
    gateway.refusals.tick(at_once=True)
    gateway.client.delete(gateway.keys.audit)
    for _ in range(50):
        web.modern("tools/call", {"name": "sub__tract"}, path="/servers/echo/mcp", headers=SMALL)
    gateway.refusals.tick(at_once=True)
    records = [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _, fields in gateway.client.xrange(gateway.keys.audit)
    ]
    denied = [found for found in records if found.get("error_code") == "POLICY_DENIED"]
    assert len(denied) < 10
    assert sum(int(found.get("count", 1)) for found in denied) == 50
    for found in denied:
        assert (found["kind"], found["outcome"], found["tenant"]) == ("policy_decision", "deny", "small")
        assert found["reason"] == "policy denies this call (rule rules[1])"
