"""Secrets that do not show themselves, what can be credentials, and the rules of a tool for them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.credential_rules import credentials_from_wire, credentials_to_wire
from common.domain.credentials import Credentials, Secret, safe_part
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.rules import Routing
from common.domain.tool import HttpTransport, StdioTransport, Tool
from tests.worker.credentials.desk import rules

STDIO, HTTP = StdioTransport(command="x"), HttpTransport(url="http://h")
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def test_a_secret_shows_itself_to_nobody() -> None:
    """Neither printed, formatted nor pickled; only to who asks."""
    secret = Secret("canary-2")
    found = Credentials(values={"key": secret}, version="v")
    shown = f"{secret} {secret!r} {found} {found!r} {[secret]} %s" % secret
    assert "canary-2" not in shown
    assert secret.reveal() == "canary-2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(found)


@pytest.mark.parametrize(
    "values",
    [
        {"": "x"},
        {"a b": "x"},
        {"_a": "x"},
        {"a" * 129: "x"},
        {"a": ""},
        {"a": "\ud800"},
        {"a": "x" * 65537},
        {"a": 5},
    ],
)
def test_what_can_be_no_credentials_is_refused_without_its_value(values: dict[str, Any]) -> None:
    """Names as in the rules, and text of a size that fits where it goes."""
    with pytest.raises((TypeError, ValueError)) as caught:
        Credentials.of(values)
    assert "xxx" not in str(caught.value)


def test_the_fingerprint_tells_values_apart() -> None:
    """Also where names and values run together; the order is no difference."""
    found = [{"a": "b"}, {"a": "c"}, {"ab": "c"}, {"a": "bc"}, {"a": "b", "c": "d"}, {"a": "bc", "d": "d"}]
    assert len({Credentials.of(values).fingerprint for values in found}) == len(found)
    one, other = {"a": "1", "b": "2"}, {"b": "2", "a": "1"}
    assert Credentials.of(one).fingerprint == Credentials.of(other).fingerprint


@given(st.lists(st.lists(IDS, min_size=1, max_size=3), min_size=2, max_size=2, unique_by=tuple))
def test_no_two_lists_of_ids_have_one_name(ids: list[list[str]]) -> None:
    """Whatever stands between the parts: in a variable's name or in a path."""
    for between in ("__", "/"):
        one, other = (between.join(map(safe_part, parts)) for parts in ids)
        assert one != other
        assert all(character.isascii() and (character.isalnum() or character in "_/") for character in one)


GOOD: list[dict[str, Any]] = [
    {"env": {"GITHUB_TOKEN": "token", "_x": "a.b-c"}},
    {"headers": {"Authorization": "Bearer {token}", "X-Api-Key": "{{{key}}}"}},
    {"meta": {"token": "k", "com.example/auth": "k", "/a/b": "k", "/a/c": "k", "com.example.mcp/x": "k"}},
]
BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "inject"),
    ({"env": {"A": "k"}, "providers": ("p", "p")}, "providers"),
    *(
        ({"env": {name: "k"}}, "inject.env")
        for name in (
            *(
                "PATH",
                "path",
                "LD_PRELOAD",
                "LD_LIBRARY_PATH",
                "DYLD_INSERT_LIBRARIES",
                "NODE_OPTIONS",
                "PYTHONPATH",
            ),
            *(
                "PYTHONSTARTUP",
                "BASH_ENV",
                "ENV",
                "IFS",
                "PERL5OPT",
                "RUBYOPT",
                "JAVA_TOOL_OPTIONS",
                "GIT_SSH_COMMAND",
            ),
            *("CANALGATE_X", "_CANALGATE_CHILD", "HOME", "", "A=B", "A B", "1A", "A\0"),
        )
    ),
    ({"env": {"A": ""}}, "inject.env"),
    ({"env": {"A": "{k}"}}, "inject.env"),
    *(
        ({"headers": {name: "{k}"}}, "inject.headers")
        for name in (
            "Host",
            "content-length",
            "Transfer-Encoding",
            "Mcp-Session-Id",
            "Connection",
            "a b",
            "",
            "a\nb",
        )
    ),
    *(
        ({"headers": {"X": template}}, "inject.headers")
        for template in ("Bearer", "", "{}", "{a b}", "{k", "k}", "{{k}}", "{k}\r\nY: 1", " {k}", "{k}ä")
    ),
    *(
        ({"meta": {name: "k"}}, "inject.meta")
        for name in (
            "",
            "progressToken",
            "io.modelcontextprotocol/x",
            "mcp.dev/x",
            "/",
            "/a//b",
            "/mcp.x~1y",
            "a\nb",
        )
    ),
    ({"meta": {"/a": "k", "/a/b": "k"}}, "inject.meta"),
]


@pytest.mark.parametrize("places", GOOD)
def test_good_rules_survive_the_registry(places: dict[str, Any]) -> None:
    """Every field."""
    found = rules(mode="optional", scope="client", providers=("a", "b"), **places)
    assert credentials_from_wire(credentials_to_wire(found)) == found
    assert credentials_from_wire(credentials_to_wire(None)) is None


@pytest.mark.parametrize(("places", "field"), BAD)
def test_bad_rules_are_refused_by_name(places: dict[str, Any], field: str) -> None:
    """What a loader or a runtime obeys is no place for a secret, nor what the protocol needs."""
    with pytest.raises(InvalidRequest) as caught:
        rules(**places)
    assert caught.value.data["field"] == f"credentials.{field}"


@pytest.mark.parametrize(
    ("transport", "rule", "routing", "field"),
    [
        (STDIO, {"headers": {"X": "{k}"}}, Routing.STICKY, "inject.headers"),
        (HTTP, {"env": {"X": "k"}}, Routing.STICKY, "inject.env"),
        (STDIO, {"env": {"X": "k"}, "scope": "tenant"}, Routing.LEAST_LOADED, "scope"),
        (HTTP, {"meta": {"X": "k"}, "scope": "client"}, Routing.LEAST_LOADED, "scope"),
    ],
)
def test_rules_that_contradict_their_tool_are_refused(
    transport: Any, rule: dict[str, Any], routing: Routing, field: str
) -> None:
    """The sessions of a pool serve everybody: they cannot act as one tenant."""
    with pytest.raises(InvalidRequest) as caught:
        Tool(id=ToolId("t"), transport=transport, routing=routing, credentials=rules(**rule))
    assert caught.value.data["field"] == f"credentials.{field}"


def test_a_pool_may_have_credentials_of_its_own() -> None:
    """With ``scope: tool``."""
    of_pool = rules(env={"X": "k"}, scope="tool")
    Tool(id=ToolId("t"), transport=STDIO, routing=Routing.LEAST_LOADED, credentials=of_pool)
