"""A tool by a transport of one's own: kept as it is, shown without its options, registered only where it is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.credential_rules import CredentialRules, CredentialScope, Injection
from common.domain.custom import CustomTransport
from common.domain.egress import STRICT, EgressRules
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, StdioTransport, Tool, Transport, tool_from_wire, tool_to_wire
from common.interchange import to_mcp_json
from common.settings.definitions import masked_definition, tool_from_entry, unmasked_entry
from common.settings.entry_of import changed_entry, entry_of
from common.settings.model import RuntimeSettings

OPTIONS = {"host": "h", "port": 7, "token": "canary", "deep": {"list": [1, None, {"x": "canary"}]}}
OWN = Tool(id=ToolId("own"), transport=CustomTransport(factory="m:C", options=OPTIONS))


def test_it_is_kept_as_it_is() -> None:
    assert tool_from_wire(tool_to_wire(OWN)) == OWN
    assert tool_from_entry("own", entry_of(OWN), RuntimeSettings()) == OWN


def test_its_options_are_hidden_and_may_be_written_back() -> None:
    """They may hold secrets anywhere."""
    shown = masked_definition(OWN)
    assert shown["factory"] == "m:C"
    assert shown["options"].keys() == OPTIONS.keys()
    assert "canary" not in f"{shown} {OWN!r}"
    assert unmasked_entry(shown, OWN)["options"] == OPTIONS


def test_another_kind_takes_its_place() -> None:
    """What belongs to it goes."""
    assert "factory" not in (entry := changed_entry(OWN, {"command": "x"}))
    assert "options" not in entry
    back = Tool(id=ToolId("own"), transport=StdioTransport(command="x", env={"A": "b"}))
    entry = changed_entry(back, {"factory": "m:C"})
    assert "command" not in entry
    assert isinstance(tool_from_entry("own", entry, RuntimeSettings()).transport, CustomTransport)
    assert changed_entry(OWN, {"factory": "m:D"})["options"] == OPTIONS


def test_no_client_is_given_it() -> None:
    found = to_mcp_json([OWN], "claude")
    assert "own" not in found.text
    assert "left out, since no client knows its transport" in "".join(found.notes)


@pytest.mark.parametrize("allowed", [(), ("m:D",), ("m",), ("m:C ",)])
def test_it_is_not_registered_at_run_time(allowed: tuple[str, ...]) -> None:
    """Its code would be loaded."""
    with pytest.raises(InvalidRequest, match=r"egress\.allowed_factories") as error:
        EgressRules(allowed_factories=allowed).check_runtime(OWN)
    assert error.value.data["field"] == "factory"


def test_but_where_its_factory_is_allowed() -> None:
    EgressRules(allowed_factories=("m:C",)).check_runtime(OWN)
    with pytest.raises(InvalidRequest):
        STRICT.check_runtime(OWN)


@pytest.mark.parametrize(
    ("transport", "inject", "fault"),
    [
        (OWN.transport, {"env": {"A": "k"}}, "inject.env goes with command"),
        (OWN.transport, {"headers": {"A": "{k}"}}, "inject.headers goes with url"),
        (StdioTransport(command="x"), {"secrets": {"a": "k"}}, "inject.secrets goes with factory"),
        (HttpTransport(url="http://h"), {"secrets": {"a": "k"}}, "inject.secrets goes with factory"),
        (OWN.transport, {"secrets": {"a b": "k"}}, "inject.secrets must name keys"),
        (OWN.transport, {"secrets": {"a": "{k}"}}, "inject.secrets must name keys"),
    ],
)
def test_credentials_go_where_its_kind_takes_them(transport: Transport, inject: Any, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        Tool(
            id=ToolId("t"),
            transport=transport,
            credentials=CredentialRules(scope=CredentialScope.TOOL, inject=Injection(**inject)),
        )
