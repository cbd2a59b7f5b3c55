"""Masks of a definition stand for what its tool has, and only where that goes on to whom it was given for."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.custom import CustomTransport
from common.domain.errors import InvalidRequest
from common.domain.ids import ToolId
from common.domain.tool import MASK, HttpTransport, StdioTransport, Tool, Transport
from common.settings.definitions import check_kept_secrets, masked_definition, unmasked_entry

ARGS = ("--token", "canary")
STDIO = StdioTransport(command="cmd", args=ARGS, env={"TOKEN": "canary"})
HTTP = HttpTransport(url="https://h.example/mcp", headers={"Authorization": "canary"})
CUSTOM = CustomTransport(factory="m:C", options={"token": "canary", "deep": {"x": "canary"}})

MOVES: list[tuple[Transport, str, Any, str]] = [
    (STDIO, "command", "other", "env.TOKEN"),
    (HTTP, "url", "https://evil.example/mcp", "headers.Authorization"),
    (HTTP, "url", "https://h.example:8443/mcp", "headers.Authorization"),
    (HTTP, "url", "http://h.example:443/mcp", "headers.Authorization"),
    (CUSTOM, "factory", "m:D", "options.token"),
]


def tool(transport: Transport) -> Tool:
    return Tool(id=ToolId("own"), transport=transport)


@pytest.mark.parametrize("transport", [STDIO, HTTP, CUSTOM])
def test_what_was_read_can_be_written_back(transport: Transport) -> None:
    shown = masked_definition(tool(transport))
    assert "canary" not in str(shown)
    assert "canary" in str(unmasked_entry({**shown, "description": "new"}, tool(transport)))


@pytest.mark.parametrize(("transport", "name", "value", "field"), MOVES)
def test_a_mask_does_not_follow_to_another_place(
    transport: Transport, name: str, value: Any, field: str
) -> None:
    """Who may not read a secret may not have it sent elsewhere."""
    shown = masked_definition(tool(transport))
    shown.pop("args", None)
    with pytest.raises(InvalidRequest, match=f"another {name}: give it") as error:
        unmasked_entry({**shown, name: value}, tool(transport))
    assert error.value.data["field"] == field


def test_nor_do_masked_arguments() -> None:
    """They belong to their command."""
    shown = masked_definition(tool(STDIO))
    with pytest.raises(InvalidRequest, match="another command: give it") as error:
        unmasked_entry({**shown, "env": {}, "command": "other"}, tool(STDIO))
    assert error.value.data["field"] == "args"


@pytest.mark.parametrize(("transport", "name", "value", "field"), MOVES)
def test_nor_does_what_a_patch_does_not_name(transport: Transport, name: str, value: Any, field: str) -> None:
    """It has to be given, or to be left out by ``null``."""
    held = field.partition(".")[0]
    with pytest.raises(InvalidRequest, match=f"give {held} as well") as error:
        check_kept_secrets(tool(transport), {name: value})
    assert error.value.data["field"] == held
    check_kept_secrets(tool(transport), {name: value, held: None})
    check_kept_secrets(tool(transport), {name: value, held: {"A": "b"}})


@pytest.mark.parametrize("url", ["https://h.example/other", "https://H.example:443/mcp?x=1"])
def test_the_same_host_is_the_same_place(url: str) -> None:
    check_kept_secrets(tool(HTTP), {"url": url})
    masked = {"url": url, "headers": {"Authorization": MASK}}
    assert unmasked_entry(masked, tool(HTTP))["headers"] == HTTP.headers


@pytest.mark.parametrize("value", [{"x": MASK}, [MASK], f"Bearer {MASK}"])
def test_a_mask_inside_a_value_is_refused(value: Any) -> None:
    """It would be taken for a secret of asterisks."""
    entry = {"factory": "m:C", "options": {"deep": value}}
    with pytest.raises(InvalidRequest, match="is masked") as error:
        unmasked_entry(entry, tool(CUSTOM))
    assert error.value.data["field"] == "options.deep"
