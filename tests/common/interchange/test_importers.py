"""Files of MCP clients become entries of ``tools``, and what cannot is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.errors import ConfigurationError
from common.domain.tool import Tool
from common.interchange import ImportResult, parse
from common.settings import RuntimeSettings
from common.settings.interpolate import interpolate
from common.settings.tools import read_tool

CLAUDE = """{"mcpServers": {
  "github": {"command": "npx", "args": ["-y", "server-github"],
             "env": {"TOKEN": "${TOKEN}", "L": "${L:-info}"}},
  "web": {"type": "http", "url": "${BASE:-https://h}/mcp", "headers": {"Authorization": "Bearer ${KEY}"}}
}}"""
CURSOR = """{"mcpServers": {
  "local": {"command": "${userHome}/bin/s", "args": ["${workspaceFolder}/a", "a${pathSeparator}b${/}c"],
            "env": {"K": "${env:K}"}},
  "remote": {"url": "https://h/mcp", "headers": {"X-K": "${env:K}"}}
}}"""
VSCODE = """{
  // where the keys come from
  "inputs": [
    {"type": "promptString", "id": "api-key", "description": "key", "password": true, "default": "no"},
    {"type": "pickString", "id": "region", "options": ["eu", "us"], "default": "eu"},
  ],
  /* the servers */
  "servers": {
    "a": {"type": "stdio", "command": "s", "env": {"KEY": "${input:api-key}", "REGION": "${input:region}"}},
    "b": {"type": "http", "url": "https://h//mcp" /* no comment */, "headers": {"X": "${env:X}"}},
  },
}"""


def one(server: dict[str, Any]) -> ImportResult:
    return parse(json.dumps({"mcpServers": {"s": server}}))


def test_a_file_of_claude() -> None:
    """Its references are ours, so they stay."""
    result = parse(CLAUDE, source="claude")
    assert result.entries == {
        "github": {
            "command": "npx",
            "args": ["-y", "server-github"],
            "env": {"TOKEN": "${TOKEN}", "L": "${L:-info}"},
        },
        "web": {"url": "${BASE:-https://h}/mcp", "headers": {"Authorization": "Bearer ${KEY}"}},
    }
    assert (result.notes, result.inputs) == ([], [])


def test_a_file_of_cursor() -> None:
    """What only the editor knows becomes a variable to set."""
    result = parse(CURSOR, source="cursor")
    assert result.entries == {
        "local": {
            "command": "${HOME}/bin/s",
            "args": ["${WORKSPACE_FOLDER}/a", "a/b/c"],
            "env": {"K": "${K}"},
        },
        "remote": {"url": "https://h/mcp", "headers": {"X-K": "${K}"}},
    }
    assert result.inputs == ["WORKSPACE_FOLDER"]
    assert ["workspaceFolder" in note for note in result.notes] == [True]


def test_a_file_of_vs_code() -> None:
    """Inputs become variables; a default is kept unless it belongs to a password."""
    result = parse(VSCODE, source="vscode")
    assert result.entries == {
        "a": {"command": "s", "env": {"KEY": "${INPUT_API_KEY}", "REGION": "${INPUT_REGION:-eu}"}},
        "b": {"url": "https://h//mcp", "headers": {"X": "${X}"}},
    }
    assert result.inputs == ["INPUT_API_KEY", "INPUT_REGION"]
    assert [("input:api-key" in note, "input:region" in note) for note in result.notes] == [
        (True, False),
        (False, True),
    ]


@pytest.mark.parametrize("text", [CLAUDE, CURSOR, VSCODE])
def test_the_format_is_recognised(text: str) -> None:
    """Nobody has to say which client wrote the file."""
    assert len(parse(text).entries) == 2


@pytest.mark.parametrize("text", [CLAUDE, CURSOR, VSCODE])
def test_entries_are_tools(text: str) -> None:
    """Once the variables are set, each entry is accepted as it is."""
    environ = dict.fromkeys(("TOKEN", "KEY", "HOME", "K", "X", "WORKSPACE_FOLDER", "INPUT_API_KEY"), "v")
    for name, entry in parse(text).entries.items():
        expanded = interpolate(entry, environ)
        assert expanded.faults == ()
        assert isinstance(read_tool(name, expanded.tree, RuntimeSettings()), Tool)


def test_a_settings_file_of_vs_code() -> None:
    """The servers may lie under ``mcp``."""
    text = '{"mcp": {"inputs": [{"id": "a", "default": "d"}], "servers": {"x": {"command": "${input:a}"}}}}'
    assert parse(text).entries == {"x": {"command": "${INPUT_A:-d}"}}


def test_the_user_file_of_claude_code() -> None:
    """Servers of single projects come along; of two with one name the first stays, and that is told."""
    text = json.dumps(
        {
            "numStartups": 5,
            "mcpServers": {"x": {"command": "top"}},
            "projects": {
                "/p": {"mcpServers": {"x": {"command": "other"}, "y": {"command": "y"}}},
                "/q": {"history": []},
            },
        }
    )
    result = parse(text)
    assert result.entries == {"x": {"command": "top"}, "y": {"command": "y"}}
    assert [("x:" in note, "projects./p" in note) for note in result.notes] == [(True, True)]


@pytest.mark.parametrize(
    ("server", "entry"),
    [
        ({"command": "x", "disabled": True}, {"command": "x", "enabled": False}),
        ({"command": "x", "enabled": False}, {"command": "x", "enabled": False}),
        ({"command": "x", "disabled": False}, {"command": "x"}),
        (
            {"command": "x", "cwd": "/d", "description": "what"},
            {"command": "x", "cwd": "/d", "description": "what"},
        ),
        ({"type": "streamableHttp", "url": "http://h"}, {"url": "http://h"}),
        ({"type": "streamable-http", "url": "http://h"}, {"url": "http://h"}),
        ({"serverUrl": "http://h"}, {"url": "http://h"}),
        ({"httpUrl": "http://h"}, {"url": "http://h"}),
        ({"command": "x", "args": [5, True, 1.5]}, {"command": "x", "args": ["5", "true", "1.5"]}),
        ({"command": "x", "env": {"A": 5, "B": False}}, {"command": "x", "env": {"A": "5", "B": "false"}}),
        ({"command": "x", "args": [], "env": {}}, {"command": "x"}),
    ],
)
def test_an_entry_keeps_what_has_a_place(server: dict[str, Any], entry: dict[str, Any]) -> None:
    """Nothing to tell: all of it was taken over."""
    result = one(server)
    assert result.entries == {"s": entry}
    assert result.notes == []


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (
            {"command": "x", "autoApprove": ["t"]},
            "s: 'autoApprove' was left out; the gateway has no such setting",
        ),
        ({"command": "x", "envFile": ".env"}, "s: 'envFile' was left out; copy its variables"),
        ({"command": "x", "timeout": 60}, "s: 'timeout' was left out; clients disagree on its unit"),
        ({"command": "x", "headers": {"A": "b"}}, "s: 'headers' was left out; it does not go with"),
        ({"url": "http://h", "env": {"A": "b"}}, "s: 'env' was left out; it does not go with"),
        (
            {"url": "http://h", "oauth": {"clientId": "x"}},
            "s: 'oauth' was left out; the gateway does not sign in",
        ),
        ({"command": "x", "env": {"A": None}}, "s: env.A was left out"),
        ({"command": "x", "env": [1]}, "s: its env was left out"),
    ],
)
def test_what_has_no_place_is_told(server: dict[str, Any], said: str) -> None:
    """The rest of the entry is imported."""
    result = one(server)
    assert list(result.entries) == ["s"]
    assert [note for note in result.notes if note.startswith(said)]


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"type": "sse", "url": "http://h/x"}, "HTTP+SSE"),
        ({"type": "SSE", "url": "http://h/x"}, "HTTP+SSE"),
        ({"url": "http://h/sse"}, "HTTP+SSE"),
        ({"type": "ws", "url": "http://h"}, "its type is not supported"),
        ({"type": 5, "url": "http://h"}, "its type is not supported"),
        ({}, "needs either a command (stdio) or a url (http)"),
        ({"command": "x", "url": "http://h"}, "needs either"),
        ({"command": "x", "type": "http"}, "needs either"),
        ({"url": "http://h", "type": "stdio"}, "needs either"),
        ({"command": ["npx", "x"]}, "needs either"),
        ({"command": "x", "args": "a b"}, "its args are not a list"),
        ({"command": "x", "args": [{}]}, "its args are not a list"),
    ],
)
def test_a_server_that_cannot_be_a_tool_is_told(server: dict[str, Any], said: str) -> None:
    """It is left out, and the others are imported."""
    text = json.dumps({"mcpServers": {"s": server, "t": {"command": "x"}}})
    result = parse(text)
    assert list(result.entries) == ["t"]
    assert [note for note in result.notes if note.startswith("s: left out") and said in note]


def test_an_sse_type_on_an_ordinary_path_that_says_http_is_kept() -> None:
    """Only the type decides where there is one."""
    assert one({"type": "http", "url": "http://h/sse"}).entries == {"s": {"url": "http://h/sse"}}


@pytest.mark.parametrize(
    "text", ["registry:\n  github:\n    image: mcp/github\n", "name: p\nservers:\n  - image: x\n"]
)
def test_a_docker_catalogue_is_told(text: str) -> None:
    """It is recognised, and not taken for broken JSON."""
    result = parse(text)
    assert result.entries == {}
    assert "Docker MCP catalogue" in result.notes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ('{"mcpServers": {"a": {}, "a": {}}}', "duplicate key"),
        ('{"mcpServers": {"a": {"command": "x', "not JSON"),
        ("[]", "must hold a JSON object"),
        ("{}", "no servers or mcpServers"),
        ('{"mcpServers": []}', "mcpServers must map names to servers"),
        ('{"a": /* never closed', "not JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused(text: str, said: str) -> None:
    """One typed error."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert said in caught.value.message


def test_a_source_must_be_known_and_right() -> None:
    """A typo is told; with a source named, only its own format is looked for."""
    with pytest.raises(ConfigurationError, match="auto, claude, cursor, vscode"):
        parse(CLAUDE, source="zed")
    with pytest.raises(ConfigurationError, match="no mcpServers"):
        parse(VSCODE, source="claude")


@pytest.mark.parametrize(
    ("written", "imported"),
    [
        ("$HOME $5 a$", "$HOME $5 a$"),
        ("$$", "$$$"),
        ("$${A}", "$$${A}"),
        ("${", "$${"),
        ("${}", "$${}"),
        ("${1}", "$${1}"),
        ("${a b}", "$${a b}"),
        ("${A:-b}", "${A:-b}"),
        ("${config:x.y}", "${CONFIG_X_Y}"),
        ("${workspaceRoot} ${workspaceFolder}", "${WORKSPACE_FOLDER} ${WORKSPACE_FOLDER}"),
        ("${input:a-b} ${input:a_b} ${input:a-b}", "${INPUT_A_B} ${INPUT_A_B_2} ${INPUT_A_B}"),
    ],
)
def test_references_are_rewritten(written: str, imported: str) -> None:
    """Two inputs never share a variable; a dollar that is text stays text."""
    assert one({"command": written}).entries["s"]["command"] == imported


def test_a_default_that_would_break_the_reference_is_left_out() -> None:
    """Braces inside a reference cannot be written."""
    text = '{"inputs": [{"id": "a", "default": "{}"}], "servers": {"x": {"command": "${input:a}"}}}'
    assert parse(text).entries == {"x": {"command": "${INPUT_A}"}}


@settings(deadline=None, max_examples=300)
@given(
    st.text(
        alphabet=st.sampled_from("$$$ax1 ") | st.characters(exclude_categories=["Cs"]),
        min_size=1,
        max_size=20,
    )
)
def test_text_without_references_means_the_same_here(text: str) -> None:
    """What the client would have passed on is what the tool gets."""
    if "${" in text or not text.strip():
        return
    entry = one({"command": text}).entries["s"]
    assert interpolate(entry, {}).tree == {"command": text}


KEYS = [
    "mcpServers",
    "servers",
    "inputs",
    "mcp",
    "projects",
    "command",
    "args",
    "env",
    "url",
    "headers",
    "type",
    "id",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["http", "sse", "stdio", "${a:b}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS) | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
)


@settings(deadline=None, max_examples=400)
@given(
    JSON.map(json.dumps)
    | JSON.map(lambda value: json.dumps({"mcpServers": {"a": value}, "servers": value}))
    | st.text(max_size=30)
    | st.text(alphabet=st.sampled_from('{}[]",:/*\\ \nab$'), max_size=30),
    st.sampled_from(["auto", "claude", "cursor", "vscode"]),
)
def test_any_text_is_a_result_or_a_typed_error(text: str, source: str) -> None:
    """No file of a client gives a traceback."""
    try:
        result = parse(text, source=source)
    except ConfigurationError:
        return
    assert isinstance(result, ImportResult)
