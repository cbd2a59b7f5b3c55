"""Entries of ``tools``: good ones become tools, each bad one a problem, and the others start."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from common.domain.rules import Affinity, CircuitRules, HealthRules, ProcessLimits, Retry, Routing
from common.domain.tool import MAX_TIMEOUT, HttpTransport, StdioTransport, Tool, ToolState
from common.settings import RuntimeSettings, load
from common.settings.tools import read_tool, read_tools

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


def test_the_rules_of_a_tool_are_what_its_entry_says() -> None:
    """Flat keys in the file, grouped in the definition."""
    tool = tool_of(
        {
            "command": "x",
            "affinity": "mcp_session",
            "retry": "safe",
            "trust_annotations": True,
            "required_scopes": ["b", "a"],
            "max_sessions": 1,
            "max_in_flight": 2,
            "max_in_flight_per_session": 3,
            "max_session_age": 40,
            "circuit_failures": 5,
            "circuit_open_for": 6,
            "circuit_probes": 7,
            "health_interval": 10,
            "health_timeout": 9,
            "health_degraded_after": 8,
            "limit_open_files": 11,
            "limit_processes": 12,
            "limit_file_bytes": 13,
            "limit_memory_bytes": 14,
        }
    )
    assert (tool.routing, tool.affinity, tool.retry) == (Routing.STICKY, Affinity.MCP_SESSION, Retry.SAFE)
    assert (tool.trust_annotations, tool.max_session_age) == (True, 40)
    assert tool.required_scopes == ("b", "a")
    assert (tool.max_sessions, tool.max_in_flight, tool.max_in_flight_per_session) == (1, 2, 3)
    assert tool.circuit == CircuitRules(failures=5, open_for=6, probes=7)
    assert tool.health == HealthRules(interval=10, timeout=9, degraded_after=8)
    assert tool.limits == ProcessLimits(open_files=11, processes=12, file_bytes=13, memory_bytes=14)
    pool = tool_of({"url": "http://h", "routing": "least_loaded", "pool_size": 9})
    assert (pool.routing, pool.pool_size, pool.limits) == (Routing.LEAST_LOADED, 9, ProcessLimits())


def test_a_tool_without_rules_has_those_of_the_domain() -> None:
    """The defaults are said in one place."""
    plain = tool_of({"command": "x"})
    bare = Tool(id=plain.id, transport=plain.transport)
    for name in (
        "routing",
        "affinity",
        "pool_size",
        "retry",
        "trust_annotations",
        "circuit",
        "health",
        "limits",
    ):
        assert getattr(plain, name) == getattr(bare, name), name
    assert tool_of({"command": "x", "routing": "least_loaded"}).pool_size == bare.pool_size


def test_absent_rules_of_circuit_and_health_come_from_the_runtime_section() -> None:
    """Each by itself."""
    runtime = RuntimeSettings(
        circuit_failures=2,
        circuit_open_for=3,
        circuit_probes=4,
        health_interval=50,
        health_timeout=40,
        health_degraded_after=30,
    )
    tool = read_tool("echo", {"command": "x", "circuit_probes": 9, "health_interval": 0}, runtime)
    assert isinstance(tool, Tool)
    assert tool.circuit == CircuitRules(failures=2, open_for=3, probes=9)
    assert tool.health == HealthRules(interval=0, timeout=40, degraded_after=30)


@pytest.mark.parametrize(
    ("entry", "idle"), [({"max_session_age": 5}, 5), ({"max_session_age": 50}, 13), ({"idle_timeout": 4}, 4)]
)
def test_an_inherited_idle_timeout_gives_way_to_the_greatest_age(entry: dict[str, Any], idle: float) -> None:
    """Nobody has contradicted himself, so nothing is refused."""
    assert tool_of({"command": "x", **entry}).idle_timeout == idle


@pytest.mark.parametrize(("key", "kind"), [("routing", Routing), ("affinity", Affinity), ("retry", Retry)])
def test_the_file_knows_the_words_of_the_domain(key: str, kind: type[Any]) -> None:
    """Each is read; any other is refused with the list of them."""
    for word in kind:
        assert getattr(tool_of({"command": "x", key: word.value}), key) is word
    message = problem_of({"command": "x", key: "hunter2"})
    assert f"tools.echo.{key} must be one of" in message
    assert all(f"'{word.value}'" in message for word in kind)
    assert "hunter2" not in message


COUNTS = ("max_sessions", "max_in_flight", "max_in_flight_per_session", "circuit_failures", "circuit_probes")
LIMITS = ("limit_open_files", "limit_processes", "limit_file_bytes", "limit_memory_bytes")
TIMES = ("max_session_age", "circuit_open_for", "health_timeout", "health_degraded_after")


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        *((key, bad) for key in (*COUNTS, *LIMITS, "pool_size") for bad in (0, -1, 1.5, "many", True, [])),
        *((key, 1_000_001) for key in COUNTS),
        *((key, 1 << 62) for key in LIMITS),
        *((key, bad) for key in TIMES for bad in (0, -1, "soon", True, float("nan"), MAX_TIMEOUT + 1)),
        *(("health_interval", bad) for bad in (-1, "soon", True, MAX_TIMEOUT + 1)),
        *(("trust_annotations", bad) for bad in ("maybe", None, 3)),
        ("pool_size", 257),
    ],
)
def test_a_wrong_number_is_refused_by_name(key: str, bad: Any) -> None:
    """Bounds of zero included: they would refuse everything."""
    entry = {"command": "x", key: bad} | ({"routing": "least_loaded"} if key == "pool_size" else {})
    assert f"tools.echo.{key} must be " in problem_of(entry)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"pool_size": 2}, "pool_size goes with routing: least_loaded"),
        ({"pool_size": 4, "routing": "sticky"}, "a sticky session is its caller's own"),
        ({"routing": "least_loaded", "affinity": "mcp_session"}, "affinity goes with routing: sticky"),
        ({"routing": "least_loaded", "max_sessions": 3}, "must not be below pool_size (4)"),
        ({"idle_timeout": 60, "max_session_age": 30}, "no session would ever be idle for so long"),
        ({"health_interval": 1}, "health_timeout (5 s) must not be above health_interval (1 s)"),
        ({"health_timeout": 1}, "health_degraded_after (1 s) must be below health_timeout (1 s)"),
    ],
)
def test_a_contradiction_is_refused_with_its_reason(entry: dict[str, Any], said: str) -> None:
    """The message names the tool, the keys as they are written, and why."""
    message = problem_of({"command": "x", **entry})
    assert message.startswith("tools.echo: ")
    assert said in message


@pytest.mark.parametrize("key", LIMITS)
def test_limits_of_processes_are_for_processes(key: str) -> None:
    """Behind a URL there is none of ours."""
    assert f"{key} in tools.echo goes with command, not with url" in problem_of({"url": "http://h", key: 1})


def test_a_contradiction_is_found_at_the_line_of_its_key(tmp_path: Path) -> None:
    """So that an editor can go there."""
    file = tmp_path / "c.yaml"
    file.write_text("tools:\n  a:\n    command: x\n    max_session_age: 5\n    idle_timeout: 6\n")
    (problem,) = load(file, {}).tool_problems
    assert problem.message.startswith(
        f"{file}:5: tools.a: idle_timeout (6 s) must not be above max_session_age"
    )


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"comand": "x"}, "unknown key 'comand' in tools.echo; did you mean 'command'?"),
        ({"command": "x", "envs": {}}, "unknown key 'envs' in tools.echo; did you mean 'env'?"),
        ({"URL": "http://h"}, "unknown key 'URL' in tools.echo; did you mean 'url'?"),
        ({"url": "http://h", "header": {}}, "did you mean 'headers'?"),
        ({"command": "x", "timeout": 5}, "did you mean 'idle_timeout'?"),
        ({"command": "x", "qqq": 5}, "known keys: requests_per_minute, burst, description"),
        ({}, "tools.echo has neither command nor url nor factory: give command for a child process, url"),
        ({"command": "x", "url": "http://h"}, "tools.echo has both command and url"),
        ({"url": "http://h/sse", "type": "sse"}, "type sse in tools.echo is not supported"),
        ({"url": "http://h", "type": "ws"}, "unknown type in tools.echo: supported are stdio"),
        ({"url": "http://h", "type": ["http"]}, "unknown type in tools.echo"),
        ({"url": "http://h", "type": "stdio"}, "type stdio in tools.echo does not go with url"),
        ({"command": "x", "type": "http"}, "type http in tools.echo does not go with command"),
        ({"url": "http://h", "env": {}}, "env in tools.echo goes with command, not with url"),
        ({"command": "x", "headers": {}}, "headers in tools.echo goes with url, not with command"),
        ({"factory": "m:C", "env": {}}, "env in tools.echo goes with command, not with factory"),
        ({"url": "http://h", "options": {}}, "options in tools.echo goes with factory, not with url"),
        ({"factory": "m:C", "url": "http://h"}, "has both url and factory"),
        ({"factory": "m:C", "type": "http"}, "type http in tools.echo does not go with factory"),
        ({"factory": "m.C()"}, "tools.echo.factory must be a name, or a class as package.module:Class"),
        ({"factory": "m:C", "options": [1]}, "tools.echo.options must be a mapping"),
        (
            {"factory": "m:C", "options": {"x": date(2026, 1, 1)}},
            "tools.echo.options must hold what JSON can",
        ),
        ({"factory": "m:C", "options": {"x": float("nan")}}, "tools.echo.options must hold what JSON can"),
        (None, "tools.echo must be a mapping with command, url or factory"),
        ("npx x", "tools.echo must be a mapping with command, url or factory"),
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


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            {"comand": "x", "request_timeout": 0, "retry": "no"},
            ["did you mean 'command'", "request_timeout must be above 0", "retry must be one of"],
        ),
        (
            {"url": "http://h", "typ": 1, "limit_processes": 1, "headers": 5},
            ["did you mean 'type'", "limit_processes in tools.echo goes with command", "headers must be"],
        ),
        ({"command": "", "type": "hunter2"}, ["unknown type in tools.echo", "command must name a program"]),
        ({"idle_timeout": "x"}, ["has neither command nor url", "idle_timeout must be a number"]),
    ],
)
def test_all_that_is_wrong_with_an_entry_is_told_at_once(entry: dict[str, Any], said: list[str]) -> None:
    """Each once: unknown keys, keys of the other kind, and values."""
    message = problem_of(entry)
    assert all(words in message for words in said)
    found = read_tool("echo", entry, RUNTIME)
    assert isinstance(found, list)
    assert len(found) == len(said)


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


@pytest.mark.parametrize("bad", [["a b"], [""], ['"'], ["a", "\\"]])
def test_scopes_that_cannot_be_sent_are_refused(bad: list[str]) -> None:
    """No token could hold them."""
    assert "tools.echo.required_scopes must hold scopes" in problem_of(
        {"command": "x", "required_scopes": bad}
    )
    assert tool_of({"command": "x", "required_scopes": "a, b"}).required_scopes == ("a", "b")
