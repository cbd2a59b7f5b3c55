"""What clients get from us: an entry for the gateway, and our tools without their secrets."""

from __future__ import annotations

from typing import Any

import pytest

from common.domain.errors import ConfigurationError
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, StdioTransport, Tool, ToolState, Transport
from common.interchange import Flavour, jsonc, parse, to_client, to_mcp_json

SECRET = "hunter2"


def tool(transport: Transport, *, name: str = "echo", state: ToolState = ToolState.ENABLED) -> Tool:
    return Tool(id=ToolId(name), transport=transport, state=state)


def exported(transport: Transport, flavour: str = "claude") -> dict[str, Any]:
    servers: dict[str, Any] = next(iter(jsonc.loads(to_mcp_json([tool(transport)], flavour).text).values()))
    found: dict[str, Any] = servers["echo"]
    return found


@pytest.mark.parametrize(
    ("flavour", "expected"),
    [
        (
            "claude",
            {"mcpServers": {"gw": {"type": "http", "url": "http://g/mcp", "headers": {"X": "a ${K}"}}}},
        ),
        ("cursor", {"mcpServers": {"gw": {"url": "http://g/mcp", "headers": {"X": "a ${env:K}"}}}}),
        (
            "vscode",
            {"servers": {"gw": {"type": "http", "url": "http://g/mcp", "headers": {"X": "a ${env:K}"}}}},
        ),
    ],
)
def test_an_entry_points_a_client_at_the_gateway(flavour: str, expected: dict[str, Any]) -> None:
    """In the client's own shape and notation."""
    assert jsonc.loads(to_client("gw", "http://g/mcp", {"X": "a ${K}"}, flavour=flavour)) == expected


def test_without_headers_there_is_no_key_for_them() -> None:
    """A local gateway needs none."""
    text = to_client("gw", "http://g/mcp", {}, flavour=Flavour.CURSOR)
    assert jsonc.loads(text) == {"mcpServers": {"gw": {"url": "http://g/mcp"}}}


@pytest.mark.parametrize("flavour", list(Flavour))
def test_what_is_exported_can_be_imported(flavour: Flavour) -> None:
    """There and back, the tools are the same."""
    tools = [
        tool(
            StdioTransport(command="npx", args=("-y", "x", "--port=1"), env={"LOG": "x"}, cwd="/d"),
            name="a b",
        ),
        tool(HttpTransport(url="https://h:1/mcp?a=b", headers={"X-Tenant": "t"}), name="c"),
    ]
    result = parse(to_mcp_json(tools, flavour).text)
    assert result.entries == {
        "a b": {"command": "npx", "args": ["-y", "x", "--port=1"], "env": {"LOG": "x"}, "cwd": "/d"},
        "c": {"url": "https://h:1/mcp?a=b", "headers": {"X-Tenant": "t"}},
    }
    assert result.notes == []


@pytest.mark.parametrize(
    ("transport", "part", "value", "variable"),
    [
        (StdioTransport(command="x", env={"API_KEY": SECRET}), ("env", "API_KEY"), "${API_KEY}", "API_KEY"),
        (
            StdioTransport(command="x", env={"my-token": SECRET}),
            ("env", "my-token"),
            "${ECHO_MY_TOKEN}",
            "ECHO_MY_TOKEN",
        ),
        (StdioTransport(command="x", args=("--token", SECRET)), ("args", 1), "${ECHO_TOKEN}", "ECHO_TOKEN"),
        (
            StdioTransport(command="x", args=(f"--api-key={SECRET}",)),
            ("args", 0),
            "--api-key=${ECHO_API_KEY}",
            "ECHO_API_KEY",
        ),
        (
            StdioTransport(command="x", args=(f"pg://u:{SECRET}@h/d",)),
            ("args", 0),
            "pg://u:${ECHO_ARGUMENT_PASSWORD}@h/d",
            "ECHO_ARGUMENT_PASSWORD",
        ),
        (
            StdioTransport(command="x", env={"DB": f"pg://u:{SECRET}@h"}),
            ("env", "DB"),
            "pg://u:${DB_PASSWORD}@h",
            "DB_PASSWORD",
        ),
        (
            HttpTransport(url="http://h", headers={"Authorization": f"Bearer {SECRET}"}),
            ("headers", "Authorization"),
            "Bearer ${ECHO_AUTHORIZATION}",
            "ECHO_AUTHORIZATION",
        ),
        (
            HttpTransport(url="http://h", headers={"X-Api-Key": SECRET}),
            ("headers", "X-Api-Key"),
            "${ECHO_X_API_KEY}",
            "ECHO_X_API_KEY",
        ),
        (
            HttpTransport(url=f"http://u:{SECRET}@h/mcp"),
            ("url",),
            "http://u:${ECHO_PASSWORD}@h/mcp",
            "ECHO_PASSWORD",
        ),
        (
            HttpTransport(url=f"http://h/mcp?a=b&key={SECRET}#f"),
            ("url",),
            "http://h/mcp?a=b&key=${ECHO_KEY}",
            "ECHO_KEY",
        ),
    ],
)
def test_a_secret_by_name_becomes_a_reference(
    transport: Transport, part: tuple[str | int, ...], value: str, variable: str
) -> None:
    """The variable is told, and the secret is nowhere in the text."""
    result = to_mcp_json([tool(transport)], "claude")
    found: Any = jsonc.loads(result.text)["mcpServers"]["echo"]
    for key in part:
        found = found[key]
    assert found == value
    assert result.variables == [variable]
    assert SECRET not in result.text


@pytest.mark.parametrize(
    "value",
    [
        "sk-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnop1234",
        "github_pat_abcdefghijklmnop1234",
        "glpat-abcdefghijklmnop1234",
        "xoxb-12345678-abc",
        "AKIAABCDEFGHIJKLMNOP",
        "AIzaabcdefghijklmnopqrstuv",
        "eyJhbGciOiJI.eyJzdWIi.c2ln",
        "-----BEGIN RSA PRIVATE KEY-----\nabc",
    ],
)
def test_a_secret_by_shape_becomes_a_reference(value: str) -> None:
    """Also under a harmless name."""
    transport = StdioTransport(command="x", args=(value,), env={"VALUE": value})
    entry = exported(transport, "cursor")
    assert entry["env"] == {"VALUE": "${env:VALUE}"}
    assert entry["args"] == ["${env:ECHO_ARGUMENT}"]


def test_everyday_values_stay() -> None:
    """Only what looks like a secret is taken out; an empty value is none."""
    entry = exported(StdioTransport(command="x", args=("--key=",), env={"PORT": "1", "TOKEN": ""}))
    assert (entry["args"], entry["env"]) == (["--key="], {"PORT": "1", "TOKEN": ""})


def test_two_secrets_never_share_a_variable() -> None:
    """Two tools may call different keys by one name."""
    tools = [
        tool(StdioTransport(command="x", env={"API_KEY": value}), name=name)
        for name, value in (("a", "one"), ("b", "two"), ("c", "one"))
    ]
    result = to_mcp_json(tools, "claude")
    servers = jsonc.loads(result.text)["mcpServers"]
    assert [servers[name]["env"]["API_KEY"] for name in "abc"] == ["${API_KEY}", "${API_KEY_2}", "${API_KEY}"]
    assert result.variables == ["API_KEY", "API_KEY_2"]


def test_a_disabled_tool_stays_disabled() -> None:
    """Where the format can say so; otherwise it is left out, and that is told."""
    off = [tool(StdioTransport(command="x"), state=ToolState.DISABLED)]
    assert jsonc.loads(to_mcp_json(off, "claude").text)["mcpServers"]["echo"]["disabled"] is True
    result = to_mcp_json(off, "vscode")
    assert jsonc.loads(result.text) == {"servers": {}}
    assert "echo: left out" in result.notes[0]


def test_text_that_the_client_would_replace_is_told() -> None:
    """The formats have no way to write a literal reference."""
    assert "echo:" in to_mcp_json([tool(StdioTransport(command="${X}"))], "claude").notes[0]


def test_a_client_must_be_known() -> None:
    """The known ones are named."""
    with pytest.raises(ConfigurationError, match="claude, cursor, vscode"):
        to_mcp_json([], "zed")
    with pytest.raises(ConfigurationError, match="claude, cursor, vscode"):
        to_client("g", "http://h", {}, flavour="zed")
