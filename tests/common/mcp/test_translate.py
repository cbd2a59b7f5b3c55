"""Translation between the eras: what is added, what is removed, what is never touched."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.mcp.inbound import classify
from common.mcp.jsonrpc import INTERNAL_ERROR, JsonRpcError
from common.mcp.revisions import LEGACY_VERSIONS
from common.mcp.translate import (
    CACHEABLE_METHODS,
    legacy_error,
    legacy_params,
    modern_error,
    modern_params,
    to_legacy_result,
    to_modern_result,
)

GATEWAY = {"name": "canalgate", "version": "1"}
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
TEXT = {"type": "text", "text": "hi"}
TOOL = {"name": "t", "inputSchema": {"type": "object"}}

LEGACY_RESULTS: list[tuple[str, dict[str, Any]]] = [
    ("tools/call", {"content": [TEXT], "structuredContent": {"a": 1}, "isError": True}),
    ("tools/list", {"tools": [TOOL], "nextCursor": "c"}),
    ("resources/list", {"resources": [{"uri": "x://a", "name": "a"}]}),
    ("resources/templates/list", {"resourceTemplates": []}),
    ("resources/read", {"contents": [{"uri": "x://a", "text": "t"}]}),
    ("prompts/list", {"prompts": []}),
    ("prompts/get", {"messages": [{"role": "user", "content": TEXT}]}),
    ("completion/complete", {"completion": {"values": ["a"]}}),
]


def to_modern(method: str, result: dict[str, Any]) -> dict[str, Any]:
    """`to_modern_result` in the name of this gateway."""
    return to_modern_result(method, result, server_info=GATEWAY)


@pytest.mark.parametrize(("method", "result"), LEGACY_RESULTS)
def test_a_legacy_result_becomes_a_complete_modern_one(method: str, result: dict[str, Any]) -> None:
    """Type, server and, where the schema wants them, cache fields are added; nothing is lost."""
    cache = {"ttlMs": 0, "cacheScope": "private"} if method in CACHEABLE_METHODS else {}
    assert to_modern(method, result) == {
        **result,
        **cache,
        "resultType": "complete",
        "_meta": {SERVER_INFO: GATEWAY},
    }


def test_what_the_backend_said_itself_is_kept() -> None:
    """Cache hints, server and unknown fields of a modern backend pass as they are."""
    result = {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 5000,
        "cacheScope": "public",
        "vendor/x": [1],
        "_meta": {SERVER_INFO: {"name": "backend", "version": "2"}, "k": "v"},
    }
    assert to_modern("tools/list", result) == result


def test_other_meta_stays_beside_the_server_info() -> None:
    """Vendor keys are not replaced."""
    result = to_modern("tools/call", {"content": [], "_meta": {"k": 1}})
    assert result["_meta"] == {"k": 1, SERVER_INFO: GATEWAY}


def test_without_server_info_no_meta_is_made() -> None:
    """None adds nothing."""
    assert to_modern_result("ping", {}, server_info=None) == {"resultType": "complete"}


@pytest.mark.parametrize("kind", ["input_required", "task"])
def test_an_unfinished_result_gets_no_cache_fields(kind: str) -> None:
    """What has to be continued must not be cached."""
    result = to_modern("resources/read", {"resultType": kind, "requestState": "s"})
    assert result == {"resultType": kind, "requestState": "s", "_meta": {SERVER_INFO: GATEWAY}}


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
@pytest.mark.parametrize(("method", "result"), LEGACY_RESULTS)
def test_a_legacy_result_returns_unchanged_from_a_modern_wire(
    method: str, result: dict[str, Any], version: str
) -> None:
    """Reducing undoes completing, at every legacy revision."""
    assert to_legacy_result(method, to_modern(method, result), version) == result


def test_only_the_fields_of_the_modern_era_are_removed() -> None:
    """Vendor fields and other `_meta` keys stay."""
    result = {
        "content": [],
        "resultType": "complete",
        "ttlMs": 1,
        "cacheScope": "public",
        "vendor": 1,
        "_meta": {SERVER_INFO: GATEWAY, "k": 1, "io.modelcontextprotocol/related-task": {"taskId": "t"}},
    }
    assert to_legacy_result("tools/call", result, "2025-11-25") == {
        "content": [],
        "vendor": 1,
        "_meta": {"k": 1, "io.modelcontextprotocol/related-task": {"taskId": "t"}},
    }


@pytest.mark.parametrize("kind", ["input_required", "task", "vendor", None, 5])
def test_an_unfinished_result_is_never_passed_off_as_an_answer(kind: Any) -> None:
    """A legacy client would take it for the end of the call, so it is a typed error."""
    with pytest.raises(
        JsonRpcError, match="cannot be sent to a client of protocol version 2025-11-25"
    ) as caught:
        to_legacy_result("tools/call", {"resultType": kind, "inputRequests": {}}, "2025-11-25")
    assert caught.value.code == INTERNAL_ERROR


@pytest.mark.parametrize("value", [[1, "é"], "x", 5, True, None])
def test_structured_content_that_is_no_object_is_dropped_for_legacy_clients(value: Any) -> None:
    """Their schema allows objects alone; the text beside it stays as it is."""
    result = {"content": [TEXT], "structuredContent": value, "resultType": "complete"}
    assert to_legacy_result("tools/call", result, "2025-11-25") == {"content": [TEXT]}


@pytest.mark.parametrize("content", [{}, {"content": []}])
def test_structured_content_without_text_becomes_text(content: dict[str, Any]) -> None:
    """Otherwise the answer would reach a legacy client empty."""
    result = {**content, "structuredContent": [1, "é"]}
    assert to_legacy_result("tools/call", result, "2025-11-25") == {
        "content": [{"type": "text", "text": '[1,"é"]'}]
    }


AUDIO = {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}
LINK = {"type": "resource_link", "uri": "x://a", "name": "a"}
AUDIO_TEXT = {"type": "text", "text": "[audio, audio/wav, not supported by protocol version 2024-11-05]"}
LINK_TEXT = {"type": "text", "text": "a: x://a"}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2024-11-05", [TEXT, AUDIO_TEXT, LINK_TEXT]),
        ("2025-03-26", [TEXT, AUDIO, LINK_TEXT]),
        ("2025-06-18", [TEXT, AUDIO, LINK]),
        ("2025-11-25", [TEXT, AUDIO, LINK]),
    ],
)
def test_content_that_came_later_becomes_text(version: str, expected: list[dict[str, Any]]) -> None:
    """An old client refuses a whole answer for one kind of block that it does not know."""
    blocks = [TEXT, AUDIO, LINK]
    assert to_legacy_result("tools/call", {"content": blocks}, version) == {"content": expected}
    messages = [{"role": "user", "content": block} for block in blocks]
    assert to_legacy_result("prompts/get", {"messages": messages}, version) == {
        "messages": [{"role": "user", "content": block} for block in expected]
    }


def test_a_titled_link_is_named_by_its_title() -> None:
    """The title is what people read."""
    block = LINK | {"title": "The report"}
    result = to_legacy_result("tools/call", {"content": [block]}, "2024-11-05")
    assert result["content"] == [{"type": "text", "text": "The report: x://a"}]


@pytest.mark.parametrize("version", LEGACY_VERSIONS)
def test_tool_schemas_get_the_legacy_shape(version: str) -> None:
    """Boolean property schemas are spelled out; an output that is no object has no schema; all else stays."""
    tool = {
        "name": "t",
        "title": "T",
        "annotations": {"readOnlyHint": True},
        "icons": [{"src": "x"}],
        "inputSchema": {
            "type": "object",
            "properties": {"any": True, "none": False, "s": {"type": "string", "x-mcp-header": "S"}},
            "$defs": {"d": True},
            "oneOf": [True],
        },
        "outputSchema": {"type": "array"},
        "_meta": {"k": 1},
    }
    expected = copy.deepcopy(tool)
    expected["inputSchema"]["properties"] |= {"any": {}, "none": {"not": {}}}  # type: ignore[index]
    del expected["outputSchema"]
    before = copy.deepcopy(tool)
    assert to_legacy_result("tools/list", {"tools": [tool]}, version) == {"tools": [expected]}
    assert tool == before


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ({"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": "object", "properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
        ({"type": ["object", "null"]}, None),
        ({"oneOf": []}, None),
        (True, None),
        (None, None),
    ],
)
def test_only_object_output_schemas_reach_legacy_clients(output: Any, kept: Any) -> None:
    """One such schema would make a legacy client refuse the whole list."""
    listed = to_legacy_result("tools/list", {"tools": [TOOL | {"outputSchema": output}]}, "2025-06-18")
    assert listed["tools"] == [TOOL | ({} if kept is None else {"outputSchema": kept})]


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("tools/call", {"content": "x"}),
        ("tools/call", {"content": [5, {"type": {}}, {"no": "type"}, {"type": "vendor"}]}),
        ("tools/call", {"task": {"taskId": "t"}}),
        ("tools/list", {"tools": {}}),
        ("tools/list", {"tools": [5, {"name": "t"}, {"name": "t", "inputSchema": {"properties": []}}]}),
        ("prompts/get", {"messages": [5, {"role": "user"}, {"role": "user", "content": "x"}]}),
        ("prompts/get", {"messages": "x"}),
        ("vendor/x", {"_meta": "odd", "a": 1}),
        ("tools/list", {"_meta": {}}),
    ],
)
def test_what_is_odd_passes_as_it_is(method: str, result: dict[str, Any]) -> None:
    """Judging a backend's answer is not for the translation."""
    assert to_legacy_result(method, result, "2024-11-05") == result


@pytest.mark.parametrize(
    ("method", "legacy", "modern"),
    [("resources/read", -32002, -32602), ("resources/read", -32603, -32603), ("tools/call", -32002, -32002)],
)
def test_the_code_for_an_unknown_resource_is_translated(method: str, legacy: int, modern: int) -> None:
    """Only in answers to resources/read; other codes are the same in both eras."""
    assert modern_error(legacy, method) == modern
    assert legacy_error(modern, method) == legacy


def test_error_codes_of_other_methods_stay() -> None:
    """Invalid params of a tool call are not a missing resource."""
    assert legacy_error(-32602, "tools/call") == -32602
    assert (modern_error(-32002), legacy_error(-32602)) == (-32602, -32002)


META = {
    "progressToken": 1,
    "traceparent": "00-x",
    "vendor.com/k": {"a": 1},
    "io.modelcontextprotocol/related-task": {"taskId": "t"},
}
RESERVED = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "c"},
    "io.modelcontextprotocol/logLevel": "info",
    "io.modelcontextprotocol/comingNext": 1,
}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"name": "t", "_meta": RESERVED | META}, {"name": "t", "_meta": META}),
        ({"name": "t", "_meta": RESERVED}, {"name": "t"}),
        ({"name": "t"}, {"name": "t"}),
        ({"_meta": {}}, {"_meta": {}}),
        ({"_meta": "odd"}, {"_meta": "odd"}),
    ],
)
def test_legacy_params_keep_everything_but_the_modern_keys(
    params: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Progress, trace and vendor keys go on; a `_meta` emptied by us goes away."""
    assert legacy_params(params) == expected


def modern(params: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """`modern_params` of an ordinary client."""
    return modern_params(
        params,
        **{"version": "2026-07-28", "client_info": {"name": "c"}, "client_capabilities": {"roots": {}}}
        | changes,
    )


@pytest.mark.parametrize("params", [{"name": "t"}, {"name": "t", "_meta": "odd"}, {"name": "t", "_meta": {}}])
def test_modern_params_describe_the_request(params: dict[str, Any]) -> None:
    """Version, client and capabilities, and a log level where there is one."""
    assert modern(params, log_level="error") == {
        "name": "t",
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
            "io.modelcontextprotocol/clientInfo": {"name": "c"},
            "io.modelcontextprotocol/logLevel": "error",
        },
    }


def test_modern_params_replace_what_was_claimed_and_keep_the_rest() -> None:
    """Forged values do not survive; an absent client or log level leaves what is there."""
    described = modern({"_meta": META | RESERVED})["_meta"]
    assert described == META | RESERVED | {
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}},
        "io.modelcontextprotocol/clientInfo": {"name": "c"},
    }
    assert modern({"_meta": RESERVED}, client_info=None)["_meta"] == RESERVED | {
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}}
    }


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*META, "a", "b"]), st.integers()))
def test_legacy_params_undo_modern_params(meta: dict[str, Any]) -> None:
    """Whatever else `_meta` holds, it comes back; and the modern form passes our own checks."""
    params = {"name": "t", "_meta": meta} if meta else {"name": "t"}
    described = modern(params, log_level="info")
    assert legacy_params(described) == params
    assert classify("tools/call", described, None).log_level == "info"


FIELDS = ["content", "structuredContent", "tools", "inputSchema", "outputSchema", "properties", "type"]
FIELDS += ["_meta", "messages", "ttlMs", "cacheScope", SERVER_INFO, "a"]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("ab"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*sorted(CACHEABLE_METHODS), "tools/call", "prompts/get", "x"]),
    st.dictionaries(st.sampled_from(FIELDS), ANY_JSON),
    st.sampled_from(LEGACY_VERSIONS),
)
def test_nothing_given_is_ever_changed(method: str, given_: dict[str, Any], version: str) -> None:
    """Not even deep inside, whatever the shape; and no shape raises."""
    before = copy.deepcopy(given_)
    to_modern(method, given_)
    to_legacy_result(method, given_, version)
    legacy_params(given_)
    modern(given_)
    assert given_ == before


class TestAgainstTheSchemas:
    """The wire models of `mcp_types` 2.3.0 accept what we send."""

    @pytest.mark.parametrize(("method", "result"), LEGACY_RESULTS)
    def test_translated_results_are_valid_modern_results(self, method: str, result: dict[str, Any]) -> None:
        """A legacy result alone is not valid at 2026-07-28; the translated one is."""
        from mcp_types import methods

        methods.validate_server_result(method, "2026-07-28", to_modern(method, result))
        with pytest.raises(ValueError, match="resultType"):
            methods.validate_server_result(method, "2026-07-28", result)

    @pytest.mark.parametrize("version", LEGACY_VERSIONS)
    @pytest.mark.parametrize(
        ("method", "result"),
        [
            ("tools/call", {"content": [], "structuredContent": [1], "resultType": "complete"}),
            ("tools/call", {"structuredContent": None, "resultType": "complete"}),
            ("tools/list", {"tools": [TOOL | {"outputSchema": {"type": "array"}}], "ttlMs": 0}),
        ],
    )
    def test_reduced_results_are_valid_legacy_results(
        self, method: str, result: dict[str, Any], version: str
    ) -> None:
        """What only the modern schema allows is gone."""
        from mcp_types import methods

        methods.validate_server_result(method, version, to_legacy_result(method, result, version))
        if "tools" in result or result.get("structuredContent"):
            with pytest.raises(ValueError, match=r"outputSchema|structuredContent"):
                methods.validate_server_result(method, version, result)

    def test_the_cacheable_methods_are_the_same(self) -> None:
        """Our table is the schema's."""
        from mcp_types import methods

        assert methods.CACHEABLE_METHODS == CACHEABLE_METHODS

    def test_described_requests_are_valid_modern_requests(self) -> None:
        """With the keys that `modern_params` sets, and not without."""
        from mcp_types import methods

        described = modern({"name": "t"}, client_info={"name": "c", "version": "1"})
        methods.validate_client_request("tools/call", "2026-07-28", described)
        with pytest.raises(ValueError, match="_meta"):
            methods.validate_client_request("tools/call", "2026-07-28", {"name": "t"})
