"""Lists, prompts, resources and completions: what is offered where, under which names, and whom a request reaches."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from common.domain.ids import ToolId
from tests.support.fake_worker import TakenCall
from tests.web.harness import GREET, NOTE, NOTES, ODD, Serve, Web, body, error

SECOND_NOTE = "canalgate://slow/" + quote("note://a", safe="")


def listed(web: Web, method: str, member: str, key: str, path: str = "/mcp") -> list[str]:
    """What a modern client is shown, by its key."""
    return [item[key] for item in body(web.modern(method, path=path))["result"][member]]


def test_prompts_stand_under_their_tools_names(web: Web) -> None:
    """And are otherwise as the backend gave them; at the tool's own endpoint under their own."""
    result = body(web.modern("prompts/list"))["result"]
    assert result["prompts"] == [{**GREET, "name": "echo__greet"}]
    assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
    assert listed(web, "prompts/list", "prompts", "name", "/servers/echo/mcp") == ["greet"]
    assert listed(web, "prompts/list", "prompts", "name", "/servers/slow/mcp") == []


def test_resources_keep_their_uris(web: Web) -> None:
    """But for one that an earlier tool gives already: that stands behind its tool's id."""
    result = body(web.modern("resources/list"))["result"]
    assert result["resources"][0] == NOTE
    assert [item["uri"] for item in result["resources"]] == ["note://a", SECOND_NOTE, "slow://b"]
    assert listed(web, "resources/list", "resources", "uri", "/servers/slow/mcp") == ["note://a", "slow://b"]
    assert body(web.modern("resources/templates/list"))["result"]["resourceTemplates"] == [NOTES]


def test_legacy_clients_see_the_same_without_hints(web: Web, session: str) -> None:
    """No result type, no cache hints: their schemas know none."""
    for method in ("prompts/list", "resources/list", "resources/templates/list"):
        result = body(web.legacy(session, method))["result"]
        assert len(result) == 1
        assert not {"resultType", "ttlMs", "cacheScope", "_meta"} & result.keys()


@pytest.mark.parametrize(
    "method", ["tools/list", "prompts/list", "resources/list", "resources/templates/list"]
)
def test_lists_come_in_pages(serve: Serve, method: str) -> None:
    """``web.list_page_size``: the pages together are the list, and a cursor that is none is refused."""
    whole, paged = serve(), None
    member = {"resources/templates/list": "resourceTemplates"}.get(method, method.partition("/")[0])
    everything = body(whole.modern(method))["result"][member]
    assert error(whole.modern(method, {"cursor": "none of ours"})) == (400, -32602)
    paged = serve(web={"list_page_size": 1})
    found: list[Any] = []
    cursor: dict[str, Any] = {}
    while True:
        result = body(paged.modern(method, cursor))["result"]
        assert len(result[member]) <= 1
        found += result[member]
        if "nextCursor" not in result:
            break
        cursor = {"cursor": result["nextCursor"]}
    assert found == everything


def reached(web: Web) -> tuple[str, dict[str, Any]]:
    """The tool that the last call reached, and its params without the caller's own ``_meta``."""
    call: TakenCall = web.worker.taken[-1]
    params = dict(call.invocation.params)
    params.pop("_meta", None)
    return call.invocation.tool, params


@pytest.mark.parametrize(
    ("uri", "tool", "own"),
    [
        ("note://a", "echo", "note://a"),
        (SECOND_NOTE, "slow", "note://a"),
        ("canalgate://slow/x", "slow", "x"),
        ("slow://b", "slow", "slow://b"),
        ("note://7/page", "echo", "note://7/page"),
    ],
)
def test_a_uri_finds_its_tool(web: Web, session: str, uri: str, tool: str, own: str) -> None:
    """By the lists, by the templates, or because it says so itself; in both eras."""
    assert web.modern("resources/read", {"uri": uri}).status_code == 200
    assert reached(web) == (tool, {"uri": own})
    assert "result" in body(web.legacy(session, "resources/read", {"uri": uri}))
    assert reached(web) == (tool, {"uri": own})


@pytest.mark.parametrize("uri", ["nobody://x", "canalgate://off/x", "canalgate://echo"])
def test_a_uri_of_nobody_is_not_found(web: Web, session: str, uri: str) -> None:
    """With each era's code, and the URI in the data."""
    response = web.modern("resources/read", {"uri": uri})
    assert error(response) == (400, -32602)
    assert body(response)["error"]["data"] == {"uri": uri}
    assert error(web.legacy(session, "resources/read", {"uri": uri})) == (200, -32002)
    assert web.worker.taken == []


def test_at_its_own_endpoint_a_tool_gets_every_uri(web: Web) -> None:
    """Whether it lists it or not."""
    web.modern("resources/read", {"uri": "any://thing"}, path="/servers/echo/mcp")
    assert reached(web) == ("echo", {"uri": "any://thing"})


def test_prompts_and_completions_find_their_tool(web: Web, session: str) -> None:
    """By prefix, in ``name`` and in ``ref``; the argument passes as it is."""
    web.modern("prompts/get", {"name": "echo__greet", "arguments": {"who": "you"}})
    assert reached(web) == ("echo", {"name": "greet", "arguments": {"who": "you"}})
    argument = {"name": "who", "value": "y"}
    reference = {"type": "ref/prompt", "name": "echo__greet", "title": "kept"}
    web.legacy(session, "completion/complete", {"ref": reference, "argument": argument})
    assert reached(web) == ("echo", {"ref": {**reference, "name": "greet"}, "argument": argument})
    reference = {"type": "ref/resource", "uri": NOTES["uriTemplate"]}
    web.modern("completion/complete", {"ref": reference, "argument": argument})
    assert reached(web) == ("echo", {"ref": reference, "argument": argument})


@pytest.mark.parametrize(
    ("method", "params", "field"),
    [
        ("prompts/get", {}, "params.name"),
        ("prompts/get", {"name": 7}, "params.name"),
        ("resources/read", {"uri": None}, "params.uri"),
        ("completion/complete", {}, "params.ref"),
        ("completion/complete", {"ref": {"type": "ref/other"}}, "params.ref"),
        ("completion/complete", {"ref": {"type": ["x"]}}, "params.ref"),
        ("completion/complete", {"ref": {"type": "ref/prompt"}}, "params.ref.name"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": 1}}, "params.ref.uri"),
    ],
)
def test_what_is_missing_is_named(web: Web, session: str, method: str, params: object, field: str) -> None:
    """INVALID_PARAMS, with the field."""
    response = web.legacy(session, method, params)
    assert error(response) == (200, -32602)
    assert body(response)["error"]["data"]["field"] == field
    assert web.worker.taken == []


def test_a_prompt_of_nobody_is_not_found(web: Web, session: str) -> None:
    """It is named for what it is."""
    response = web.legacy(session, "prompts/get", {"name": "greet"})
    assert error(response) == (200, -32602)
    assert body(response)["error"]["message"].startswith("Unknown prompt: greet")


def test_odd_ids_stand_in_qualified_uris(web: Web) -> None:
    """Whatever a tool is called, it can be named."""
    assert ToolId(ODD)  # of it nothing is known that has resources: it is no target
    assert error(web.modern("resources/read", {"uri": f"canalgate://{quote(ODD, safe='')}/x"})) == (
        400,
        -32602,
    )
