"""A tool's definition: what is refused, what survives the registry, and how a change is noticed."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.content_rules import ContentRules, HiddenCharacters, Pinning
from common.domain.credential_rules import CredentialMode, CredentialRules, CredentialScope, Injection
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.rules import (
    MAX_COUNT,
    Affinity,
    CircuitRules,
    HealthRules,
    ProcessLimits,
    Retry,
    Routing,
)
from common.domain.tls import TlsRules
from common.domain.tool import (
    MAX_POOL_SIZE,
    MAX_TIMEOUT,
    HttpTransport,
    StdioTransport,
    Tool,
    ToolState,
    tool_from_wire,
    tool_to_wire,
)

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
WORD = TEXT.filter(bool)
NAMED = st.dictionaries(TEXT, TEXT, max_size=3)
TRANSPORTS = st.builds(
    StdioTransport, command=WORD, args=st.lists(TEXT, max_size=3).map(tuple), env=NAMED, cwd=st.none() | TEXT
) | st.builds(HttpTransport, url=TEXT.map("http://".__add__), headers=NAMED)
SECONDS = st.floats(0.001, MAX_TIMEOUT)
COUNT = st.integers(1, MAX_COUNT)
LIMIT = st.none() | st.integers(1, (1 << 62) - 1)
CIRCUITS = st.builds(CircuitRules, failures=COUNT, open_for=SECONDS, probes=COUNT)
HEALTH = st.builds(
    HealthRules,
    interval=st.just(0) | st.floats(50, MAX_TIMEOUT),
    timeout=st.floats(10, 50),
    degraded_after=st.floats(0.001, 9),
)
LIMITS = st.builds(ProcessLimits, open_files=LIMIT, processes=LIMIT, file_bytes=LIMIT, memory_bytes=LIMIT)
CONTENT = st.builds(
    ContentRules, pinning=st.sampled_from(Pinning), hidden_characters=st.sampled_from(HiddenCharacters)
) | st.just(ContentRules(pinning=Pinning.QUARANTINE, approve_first=True))
PLAIN = {
    "id": WORD,
    "transport": TRANSPORTS,
    "state": st.sampled_from(ToolState),
    "description": TEXT,
    "request_timeout": SECONDS,
    "startup_timeout": SECONDS,
    "idle_timeout": st.floats(0.001, 100),
    "queue_max_length": COUNT,
    "queue_max_age": SECONDS,
    "pool_size": st.integers(1, MAX_POOL_SIZE),
    "retry": st.sampled_from(Retry),
    "trust_annotations": st.booleans(),
    "required_scopes": st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    "max_sessions": st.none() | st.integers(MAX_POOL_SIZE, MAX_COUNT),
    "max_in_flight": st.none() | COUNT,
    "max_in_flight_per_session": st.none() | COUNT,
    "max_session_age": st.none() | st.floats(100, MAX_TIMEOUT),
    "input_timeout": st.floats(0.001, MAX_TIMEOUT),
    "requests_per_minute": st.integers(10, MAX_COUNT),
    "burst": st.none() | st.integers(1, 10),
    "circuit": CIRCUITS,
    "health": HEALTH,
    "limits": LIMITS,
    "content": CONTENT,
}
TOOLS = st.builds(
    Tool, **PLAIN, routing=st.just(Routing.STICKY), affinity=st.sampled_from(Affinity)
) | st.builds(Tool, **PLAIN, routing=st.just(Routing.LEAST_LOADED), affinity=st.just(Affinity.CLIENT))

STDIO = Tool(id=ToolId("t"), transport=StdioTransport(command="cmd", args=("a",), env={"K": "V"}, cwd="/"))
HTTP = Tool(id=ToolId("t"), transport=HttpTransport(url="http://h/mcp", headers={"X": "1"}))


def over_the_wire(value: Any) -> Any:
    return orjson.loads(orjson.dumps(value))


@given(TOOLS)
def test_a_definition_survives_the_registry(tool: Tool) -> None:
    """Every field, and with it the fingerprint: an unchanged file keeps its versions."""
    back = tool_from_wire(over_the_wire(tool_to_wire(tool)))
    assert back == tool
    assert back.digest() == tool.digest()


TLS = TlsRules(ca_file="a", cert_file="c", key_file="k", min_version="1.2", server_name="n")
TLS_CHANGES: list[dict[str, Any]] = [
    *({name: None} for name in ("ca_file", "key_file", "server_name")),
    {"cert_file": "d"},
    {"min_version": "1.3"},
]
SECURE = Tool(id=ToolId("s"), transport=HttpTransport(url="https://h", tls=TLS))

OTHER_CONTENT = (
    ContentRules(pinning=Pinning.OFF),
    ContentRules(pinning=Pinning.QUARANTINE),
    ContentRules(pinning=Pinning.QUARANTINE, approve_first=True),
    ContentRules(hidden_characters=HiddenCharacters.REJECT),
)
CHANGES: list[tuple[Tool, dict[str, Any]]] = [
    (STDIO, {"id": ToolId("u")}),
    (STDIO, {"state": ToolState.DISABLED}),
    (STDIO, {"description": "new"}),
    (STDIO, {"request_timeout": 31.0}),
    (STDIO, {"startup_timeout": 31.0}),
    (STDIO, {"idle_timeout": 31.0}),
    (STDIO, {"queue_max_length": 31}),
    (STDIO, {"queue_max_age": 31.0}),
    (STDIO, {"routing": Routing.LEAST_LOADED}),
    (STDIO, {"affinity": Affinity.MCP_SESSION}),
    (STDIO, {"pool_size": 31}),
    (STDIO, {"retry": Retry.SAFE}),
    (STDIO, {"trust_annotations": True}),
    (STDIO, {"required_scopes": ("a",)}),
    (STDIO, {"max_sessions": 31}),
    (STDIO, {"max_in_flight": 31}),
    (STDIO, {"max_in_flight_per_session": 31}),
    (STDIO, {"max_session_age": 301.0}),
    (STDIO, {"input_timeout": 301.0}),
    (STDIO, {"requests_per_minute": 31}),
    (replace(STDIO, requests_per_minute=31), {"burst": 7}),
    *(
        (STDIO, {"circuit": CircuitRules(**change)})
        for change in ({"failures": 6}, {"open_for": 6}, {"probes": 6})
    ),
    *(
        (STDIO, {"health": HealthRules(**change)})
        for change in ({"interval": 6}, {"timeout": 6}, {"degraded_after": 2})
    ),
    *((STDIO, {"content": content}) for content in OTHER_CONTENT),
    *((STDIO, {"limits": ProcessLimits(**{field.name: 6})}) for field in fields(ProcessLimits)),
    *(
        (STDIO, {"credentials": CredentialRules(inject=Injection(meta={"a": "k"}), **change)})
        for change in (
            {},
            {"mode": CredentialMode.OPTIONAL},
            {"scope": CredentialScope.TOOL},
            {"providers": ("p",)},
        )
    ),
    (STDIO, {"credentials": CredentialRules(inject=Injection(env={"A": "k"}))}),
    (HTTP, {"credentials": CredentialRules(inject=Injection(headers={"A": "{k}"}))}),
    (STDIO, {"transport": HTTP.transport}),
    (STDIO, {"transport": replace(STDIO.transport, command="other")}),
    (STDIO, {"transport": replace(STDIO.transport, args=("b",))}),
    (STDIO, {"transport": replace(STDIO.transport, env={"K": "W"})}),
    (STDIO, {"transport": replace(STDIO.transport, cwd=None)}),
    (HTTP, {"transport": replace(HTTP.transport, url="http://h/other")}),
    (HTTP, {"transport": replace(HTTP.transport, headers={"X": "2"})}),
    *(
        (SECURE, {"transport": replace(SECURE.transport, tls=replace(TLS, **change))})
        for change in TLS_CHANGES
    ),
]


@pytest.mark.parametrize(("tool", "change"), CHANGES)
def test_every_change_changes_the_fingerprint(tool: Tool, change: dict[str, Any]) -> None:
    """Or a changed definition would keep sessions of the old one."""
    assert replace(tool, **change).digest() != tool.digest()


def test_the_changes_above_name_every_field() -> None:
    """A new field without a row here is a field that may be missing from the fingerprint."""
    named = {name for _, change in CHANGES for name in change}
    assert named == {field.name for field in fields(Tool)}
    for tool in (STDIO, HTTP):
        changed = {"tls"} if tool is HTTP else set()
        for base, change in CHANGES:
            new = change.get("transport")
            if base is tool and type(new) is type(tool.transport):
                changed |= {
                    field.name
                    for field in fields(tool.transport)
                    if getattr(new, field.name) != getattr(tool.transport, field.name)
                }
        # What does not count when definitions are compared is no part of them.
        assert changed == {field.name for field in fields(tool.transport) if field.compare}
    assert {name for change in TLS_CHANGES for name in change} == {field.name for field in fields(TlsRules)}


def test_the_order_of_a_mapping_is_no_change() -> None:
    """``env`` and ``headers`` have no order."""
    one = replace(STDIO, transport=StdioTransport(command="c", env={"A": "1", "B": "2"}))
    other = replace(STDIO, transport=StdioTransport(command="c", env={"B": "2", "A": "1"}))
    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": "\ud800"}, "id"),
        ({"transport": StdioTransport(command="")}, "command"),
        ({"transport": HttpTransport(url="ftp://h")}, "url"),
        ({"transport": HttpTransport(url="")}, "url"),
        ({"description": "\ud800"}, "description"),
        ({"transport": StdioTransport(command="x\ud800")}, "command"),
        ({"transport": StdioTransport(command="x", args=("a", "\ud800"))}, "args"),
        ({"transport": StdioTransport(command="x", env={"K": "\ud800"})}, "env"),
        ({"transport": StdioTransport(command="x", env={"\ud800": "v"})}, "env"),
        ({"transport": StdioTransport(command="x", cwd="\ud800")}, "cwd"),
        ({"transport": HttpTransport(url="http://\ud800")}, "url"),
        ({"transport": HttpTransport(url="http://h", headers={"X": "\ud800"})}, "headers"),
        *(({"queue_max_length": value}, "queue_max_length") for value in (0, -1, 1_000_001)),
        *(
            ({name: value}, name)
            for name in ("max_sessions", "max_in_flight", "max_in_flight_per_session")
            for value in (0, -1, MAX_COUNT + 1)
        ),
        *(
            ({"max_session_age": value}, "max_session_age")
            for value in (0, -1, MAX_TIMEOUT + 1, float("nan"))
        ),
        *(({"pool_size": value}, "pool_size") for value in (0, -1, MAX_POOL_SIZE + 1)),
        ({"max_session_age": 299.0}, "idle_timeout"),
        ({"routing": Routing.LEAST_LOADED, "affinity": Affinity.MCP_SESSION}, "affinity"),
        ({"routing": Routing.LEAST_LOADED, "pool_size": 4, "max_sessions": 3}, "max_sessions"),
        *(
            ({name: value}, name)
            for name in ("request_timeout", "startup_timeout", "idle_timeout", "queue_max_age")
            for value in (0, -1, MAX_TIMEOUT + 1, float("nan"), float("inf"))
        ),
    ],
)
def test_a_definition_that_cannot_work_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    """At once, not at the first call."""
    with pytest.raises(InvalidRequest) as caught:
        replace(STDIO, **change)
    assert caught.value.data["field"] == field


def test_bounds_that_just_agree_are_good() -> None:
    """A session may live exactly as long as it may be idle, and a pool may be all the sessions there may be."""
    tool = replace(
        STDIO, max_session_age=STDIO.idle_timeout, routing=Routing.LEAST_LOADED, pool_size=4, max_sessions=4
    )
    assert (tool.max_session_age, tool.max_sessions) == (300, 4)


def test_a_definition_of_an_older_writer_has_the_defaults() -> None:
    """Processes of two versions run side by side while one takes the other's place."""
    wire = over_the_wire(tool_to_wire(STDIO))
    for field in fields(Tool)[fields(Tool).index(next(f for f in fields(Tool) if f.name == "routing")) :]:
        del wire[field.name]
    assert tool_from_wire(wire) == STDIO


@pytest.mark.parametrize("field", ["routing", "affinity", "retry"])
def test_a_word_that_nobody_knows_is_refused_by_name(field: str) -> None:
    """In a record of the registry, too."""
    with pytest.raises(InvalidRequest, match=f"{field} must be one of") as caught:
        tool_from_wire({**tool_to_wire(STDIO), field: "round_robin"})
    assert caught.value.data["field"] == field


def test_secrets_are_not_shown() -> None:
    """``env`` and ``headers`` hold credentials."""
    assert "V" not in repr(STDIO)
    assert "X" not in repr(HTTP)


@pytest.mark.parametrize("state", ToolState)
def test_only_an_operator_switches_a_tool_off(state: ToolState) -> None:
    """Degraded and unavailable are the probe's view, and calls go through."""
    assert STDIO.with_state(state).enabled == (state is not ToolState.DISABLED)
