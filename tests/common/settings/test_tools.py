"""Entries of ``tools``: good ones become tools, each bad one a problem, and the others start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.domain.tool import MAX_TIMEOUT, HttpTransport, StdioTransport, Tool, ToolState
from common.settings import RuntimeSettings, load
from common.settings.entry import read_tool, read_tools

RUNTIME = RuntimeSettings(request_timeout=11, startup_timeout=12, idle_timeout=13)


def tool_of(entry: Any) -> Tool:
    found = read_tool("echo", entry, RUNTIME)
    assert isinstance(found, Tool), found
    return found


def problem_of(entry: Any) -> str:
    tools, (problem,) = read_tools({"echo": entry}, RUNTIME)
    assert tools == ()
    assert problem.id == "echo"
    return problem.message


def test_a_stdio_tool_has_what_its_entry_says() -> None:
    """Every key of a command reaches the transport."""
    entry = {"command": "npx", "args": ["-y", "x"], "env": {"A": "b"}, "cwd": "/dir", "type": "stdio"}
    assert tool_of(entry).transport == StdioTransport(
        command="npx", args=("-y", "x"), env={"A": "b"}, cwd="/dir"
    )


@pytest.mark.parametrize("kind", [{}, {"type": "http"}, {"type": "streamable-http"}])
def test_an_http_tool_has_what_its_entry_says(kind: dict[str, str]) -> None:
    """Both words for Streamable HTTP mean the same, and neither is needed."""
    entry = {"url": "https://h:1/mcp", "headers": {"X-K": "v"}, **kind}
    assert tool_of(entry).transport == HttpTransport(url="https://h:1/mcp", headers={"X-K": "v"})


def test_absent_timeouts_come_from_the_runtime_section() -> None:
    """And those that are given hold for this tool."""
    plain = tool_of({"command": "x"})
    assert (plain.request_timeout, plain.startup_timeout, plain.idle_timeout) == (11, 12, 13)
    own = tool_of({"command": "x", "request_timeout": 1, "startup_timeout": 2.5, "idle_timeout": "3"})
    assert (own.request_timeout, own.startup_timeout, own.idle_timeout) == (1, 2.5, 3)


def test_a_tool_can_be_described_and_switched_off() -> None:
    """A disabled tool is still a tool."""
    tool = tool_of({"command": "x", "description": "d", "enabled": False})
    assert (tool.description, tool.state) == ("d", ToolState.DISABLED)
    assert tool_of({"command": "x"}).state is ToolState.ENABLED


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"comand": "x"}, "unknown key 'comand' in tools.echo; did you mean 'command'?"),
        ({"command": "x", "envs": {}}, "unknown key 'envs' in tools.echo; did you mean 'env'?"),
        ({"URL": "http://h"}, "unknown key 'URL' in tools.echo; did you mean 'url'?"),
        ({"url": "http://h", "header": {}}, "did you mean 'headers'?"),
        ({"command": "x", "timeout": 5}, "did you mean 'idle_timeout'?"),
        ({"command": "x", "qqq": 5}, "known keys: description, request_timeout"),
        ({}, "tools.echo has neither command nor url: give command for a child process, or url"),
        ({"command": "x", "url": "http://h"}, "tools.echo has both command and url"),
        ({"url": "http://h/sse", "type": "sse"}, "type sse in tools.echo is not supported"),
        ({"url": "http://h", "type": "ws"}, "unknown type in tools.echo: supported are stdio"),
        ({"url": "http://h", "type": ["http"]}, "unknown type in tools.echo"),
        ({"url": "http://h", "type": "stdio"}, "type stdio in tools.echo does not go with url"),
        ({"command": "x", "type": "http"}, "type http in tools.echo does not go with command"),
        ({"url": "http://h", "env": {}}, "env in tools.echo goes with command, not with url"),
        ({"command": "x", "headers": {}}, "headers in tools.echo goes with url, not with command"),
        (None, "tools.echo must be a mapping with command or url"),
        ("npx x", "tools.echo must be a mapping with command or url"),
        ({"command": ""}, "tools.echo.command must name a program"),
        ({"command": ["npx"]}, "tools.echo.command must be text"),
        ({"command": "x", "args": "a b"}, "tools.echo.args must be a list"),
        ({"command": "x", "args": [1]}, "tools.echo.args[0] must be text"),
        ({"command": "x", "args": ["a\0"]}, "tools.echo.args[0] must not hold a NUL"),
        ({"command": "x", "env": ["A=b"]}, "tools.echo.env must be a mapping"),
        ({"command": "x", "env": {"A": None}}, "tools.echo.env.A must be text"),
        ({"command": "x", "env": {"A=B": "c"}}, "tools.echo.env must map names of environment variables"),
        ({"command": "x", "env": {"": "c"}}, "tools.echo.env must map names of environment variables"),
        ({"command": "x", "cwd": 5}, "tools.echo.cwd must be text"),
        ({"url": "h/mcp"}, "tools.echo.url must be a URL such as"),
        ({"url": "ftp://h"}, "tools.echo.url must be a URL such as"),
        ({"url": "http://"}, "tools.echo.url must be a URL such as"),
        ({"url": "http://[::1"}, "tools.echo.url must be a URL such as"),
        ({"url": "http://h:99999"}, "tools.echo.url must be a URL such as"),
        ({"url": "http://h/a b"}, "tools.echo.url must be a URL such as"),
        ({"url": "http://h", "headers": {"A B": "c"}}, "tools.echo.headers must be a header name"),
        ({"url": "http://h", "headers": {"A": "c\r\nB: d"}}, "without line breaks"),
        ({"url": "http://h", "headers": {"A": 5}}, "tools.echo.headers.A must be text"),
        ({"command": "x", "request_timeout": 0}, "tools.echo.request_timeout must be above 0"),
        ({"command": "x", "startup_timeout": MAX_TIMEOUT + 1}, "startup_timeout must be at most 86400"),
        ({"command": "x", "idle_timeout": "soon"}, "tools.echo.idle_timeout must be a number"),
        ({"command": "x", "enabled": "maybe"}, "tools.echo.enabled must be true or false"),
        ({"command": "x", "description": 5}, "tools.echo.description must be text"),
    ],
)
def test_a_bad_entry_says_what_to_mend(entry: Any, said: str) -> None:
    """The message names the key, what is wrong and the nearest name."""
    assert said in problem_of(entry)


def test_all_faults_of_an_entry_are_told() -> None:
    """One look at the file is enough."""
    message = problem_of({"command": 5, "args": 5})
    assert "tools.echo.command" in message
    assert "tools.echo.args" in message


@pytest.mark.parametrize(
    "entry", [{"url": "ftp://hunter2"}, {"command": "x", "env": {"hunter2=": "hunter2"}}]
)
def test_a_problem_never_holds_a_value(entry: Any) -> None:
    """URLs and variables may hold secrets."""
    assert "hunter2" not in problem_of(entry)


def test_an_id_that_cannot_be_one_is_a_problem() -> None:
    """The rules for ids are the domain's."""
    tools, problems = read_tools({"x" * 513: {"command": "x"}, "": {"command": "x"}}, RUNTIME)
    assert tools == ()
    assert ["longer than" in problems[0].message, "must not be empty" in problems[1].message] == [True, True]


def test_a_bad_tool_does_not_keep_the_others(tmp_path: Path) -> None:
    """The file starts with its good tools, and tells line and cause of the bad one."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "runtime: {idle_timeout: 9}\n"
        "tools:\n"
        "  good: {command: npx, args: [-p, 8080]}\n"
        "  bad:\n"
        "    comand: npx\n"
        "  a@b|c: {url: '${BASE}/mcp'}\n"
    )
    settings = load(file, {"BASE": "http://h"})
    assert [tool.id for tool in settings.tools] == ["good", "a@b|c"]
    assert settings.tools[0].transport == StdioTransport(command="npx", args=("-p", "8080"))
    assert settings.tools[0].idle_timeout == 9
    (problem,) = settings.tool_problems
    assert problem.id == "bad"
    assert problem.message == f"{file}:5: unknown key 'comand' in tools.bad; did you mean 'command'?"
