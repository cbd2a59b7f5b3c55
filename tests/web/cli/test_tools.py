"""``canalgate tools``: what the list shows, and what adding, updating and removing leave behind."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from common.audit.journal import Journal
from common.circuit.breaker import Circuits
from common.domain.capabilities import Capabilities
from common.domain.health import Health, health_to_wire
from common.domain.ids import ToolId, queue_of
from common.domain.rules import Affinity, ProcessLimits, Retry, Routing
from common.domain.tool import HttpTransport, Origin, StdioTransport, Tool, ToolState
from common.registry.lifecycle import Lifecycle
from common.registry.records import capabilities_to_json
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli import doctor
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.support.unchanged import assert_unchanged
from tests.web.cli.conftest import USER, Canalgate

T = ToolId("demo")
SECRET = "hunter2"


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    return Registry(client, keys, ANYTHING)


def stdio(**more: Any) -> Tool:
    return Tool(id=T, transport=StdioTransport(command="cmd", args=("a",), env={"K": SECRET}), **more)


def actors(client: Client, keys: Keys) -> list[tuple[str, str]]:
    """Kind and actor of each event, the oldest first."""
    found = reversed(Journal(client, keys).newest(100))
    return [(record.kind, record.fields["actor"]) for record in found]


# -- the list ---------------------------------------------------------------------------------------------


def test_the_list_shows_how_a_tool_stands(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys
) -> None:
    """State, health, circuit, sessions and calls, as a table and for scripts."""
    registry.put(stdio())
    health = Health(grade=ToolState.DEGRADED, latency_ms=1500.4, at=2, since=1, reason="it is slow")
    client.hset(keys.health, T, orjson.dumps(health_to_wire(health)))
    client.hset(keys.sessions(T), mapping={"a:b": "n1 1 1", "a:c": "n2 2 1"})
    client.hset(keys.calls(queue_of(T)), mapping={f"call{n}": f"n1 {n}" for n in range(7)})
    client.lpush(queue_of(T), "message")
    Lifecycle(client, keys).drain(T, actor="cli:bob")
    Circuits(client, keys).trip(T, "it eats data")
    (told,) = orjson.loads(canalgate("tools", "--json").stdout)
    assert (told["state"], told["draining"], told["operator"]["by"]) == ("degraded", True, "cli:bob")
    assert told["health"] == health_to_wire(health)
    assert (told["circuit"]["state"], told["circuit"]["tripped"], told["circuit"]["note"]) == (
        *("open", True),
        "it eats data",
    )
    assert (told["sessions"], told["waiting"], told["in_flight"]) == (2, 1, 7)
    shown = canalgate("tools").stdout
    for word in ("degraded, draining", "degraded, 1500 ms", "tripped", "it eats data; it is slow"):
        assert word in shown
    assert SECRET not in shown


BROKEN = "the tool's process ended while starting"


@pytest.mark.parametrize(
    ("found", "probed", "shown"),
    [
        (BROKEN, BROKEN, BROKEN),
        (f"{BROKEN};\n its standard error ends: boom", BROKEN, f"{BROKEN}; its standard error ends: boom"),
        ("x" * 600, "x" * 499 + "…", "x" * 600),
        ("it refused", "it is slow", "it refused; it is slow"),
        (None, BROKEN, BROKEN),
    ],
)
def test_a_problem_that_was_found_twice_is_shown_once(
    *,
    canalgate: Canalgate,
    registry: Registry,
    client: Client,
    keys: Keys,
    found: str | None,
    probed: str,
    shown: str,
) -> None:
    """By the discovery and by a probe, which may tell less of it. The list has the first line of several."""
    version = registry.put(stdio())
    asked = Capabilities(tool_version=version, discovered_at=1, error=found)
    client.hset(keys.registry_capabilities, T, capabilities_to_json(asked))
    health = Health(grade=ToolState.UNAVAILABLE, latency_ms=None, at=2, since=1, reason=probed)
    client.hset(keys.health, T, orjson.dumps(health_to_wire(health)))
    line = canalgate("tools").stdout.splitlines()[1]
    assert line.endswith(f"  {BROKEN} …" if found and "\n" in found else f"  {shown}")
    assert f"problem    {shown}" in canalgate("tools", "show", "demo").stdout.splitlines()


@pytest.mark.parametrize(("grade", "noted"), [(ToolState.UNAVAILABLE, True), (ToolState.ENABLED, False)])
def test_a_refresh_says_until_when_an_old_grade_is_shown(
    *, canalgate: Canalgate, registry: Registry, client: Client, keys: Keys, grade: ToolState, noted: bool
) -> None:
    """It asks what the tool offers; how it is, only the next probe finds out."""
    registry.put(stdio())
    health = Health(grade=grade, latency_ms=None, at=2, since=1, reason=BROKEN)
    client.hset(keys.health, T, orjson.dumps(health_to_wire(health)))
    done = canalgate("tools", "refresh", "demo")
    assert (done.exit_code, done.stdout) == (Exit.OK, "demo will be asked again\n")
    said = f"looked at again within {stdio().health.interval:g} s; until then `tools` shows unavailable"
    assert (said in done.stderr) == noted


def test_a_tool_of_which_little_is_known(canalgate: Canalgate, registry: Registry) -> None:
    """No probe, no sessions, a circuit that never failed."""
    registry.put(stdio(state=ToolState.DISABLED))
    (told,) = orjson.loads(canalgate("tools", "--json").stdout)
    assert (told["state"], told["draining"], told["health"]) == ("disabled", False, None)
    assert (told["circuit"]["state"], told["circuit"]["tripped"]) == ("closed", False)
    assert (told["sessions"], told["waiting"], told["in_flight"]) == (0, 0, 0)
    assert "disabled  not probed  closed" in canalgate("tools").stdout


def test_an_open_circuit_says_when_it_is_tried_again(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys
) -> None:
    """And a closed one how many failures it has seen in a row."""
    registry.put(stdio())
    now = client.time()[0] * 1000
    client.hset(keys.circuit(T), mapping={"state": "open", "until": now + 20_000, "generation": 1})
    assert re.search(r"  open (20|1\d) s  ", canalgate("tools").stdout)
    client.delete(keys.circuit(T))
    client.hset(keys.circuit(T), mapping={"state": "closed", "failures": 3})
    assert "closed, 3 failed" in canalgate("tools").stdout


def test_names_do_not_reach_the_terminal_as_they_are(canalgate: Canalgate, registry: Registry) -> None:
    """No markup, no escape sequences."""
    registry.put(Tool(id=ToolId("[bold]\x1b[2J"), transport=StdioTransport(command="c")))
    shown = canalgate("tools").stdout
    assert "[bold]" in shown
    assert "\x1b" not in shown


def test_no_word_of_the_list_is_cut(canalgate: Canalgate, registry: Registry) -> None:
    """However narrow the terminal: lines are searched by scripts, and columns stand below each other."""
    long = "x" * 200
    registry.put(Tool(id=ToolId(long), transport=StdioTransport(command="c")))
    registry.put(stdio())
    head, first, second = canalgate("tools").stdout.splitlines()
    assert second.startswith(long)
    assert head.index("state") == first.index("enabled") == second.index("enabled") == 202


def test_the_doctor_finds_nothing_wrong_with_a_tool_that_is_switched_off(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks it what it offers, and that is as it was wanted."""
    monkeypatch.setattr(doctor, "running_instance", lambda _: SimpleNamespace(endpoint="http://h", pid=1))
    registry.put(stdio())
    assert "bad  tool demo: not asked yet" in canalgate("doctor").stdout
    Lifecycle(client, keys).disable(T)
    done = canalgate("doctor")
    assert (done.exit_code, "ok   tool demo: disabled" in done.stdout) == (Exit.OK, True)


# -- adding and removing ----------------------------------------------------------------------------------


def test_what_is_added_and_removed_is_audited_under_the_user(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys
) -> None:
    """Whoever typed it."""
    assert canalgate("tools", "add", "demo", "{command: x}").exit_code == Exit.OK
    assert canalgate("tools", "add", "demo", "{command: y}", "--replace").exit_code == Exit.OK
    assert canalgate("tools", "remove", "demo").exit_code == Exit.OK
    assert actors(client, keys) == [
        ("tool_registered", f"cli:{USER}"),
        ("tool_updated", f"cli:{USER}"),
        ("tool_removed", f"cli:{USER}"),
    ]
    assert registry.entries() == []


def test_the_rules_of_a_tool_can_be_given(canalgate: Canalgate, registry: Registry) -> None:
    """As in the file."""
    done = canalgate("tools", "add", "demo", "{url: 'http://h', routing: least_loaded, pool_size: 2}")
    assert done.exit_code == Exit.OK, done.output
    tool = registry.get(T).tool
    assert (tool.routing, tool.pool_size) == (Routing.LEAST_LOADED, 2)


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("{command: x, routing: random}", "tools.demo.routing must be one of 'sticky' or 'least_loaded'"),
        ("{command: x, max_sessions: 0}", "tools.demo.max_sessions must be at least 1"),
        ("{command: x, idle_timeout: 9, max_session_age: 8}", "no session would ever be idle for so long"),
        ("{url: 'http://h', limit_open_files: 9}", "limit_open_files in tools.demo goes with command"),
        ("{command: x, pool_size: 2}", "pool_size goes with routing: least_loaded"),
        ("[", "the definition is not YAML"),
        ("text", "must be a mapping"),
    ],
)
def test_a_definition_that_cannot_work_is_refused_by_key(
    canalgate: Canalgate, registry: Registry, definition: str, said: str
) -> None:
    """For a new tool and for an update alike, and nothing is changed."""
    registry.put(stdio())
    for verb in (("add", "other"), ("update", "demo")):
        done = canalgate("tools", *verb, definition)
        assert done.exit_code == Exit.USAGE
        assert said.replace("demo", verb[1]) in done.output.replace("\n", " ")
        assert "Traceback" not in done.output
    assert [entry.tool for entry in registry.entries()] == [stdio()]


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("{command: sh, args: [-c, id]}", "egress.allowed_commands"),
        ("{command: --x}", "must not begin with a hyphen"),
        ("{command: x, env: {LD_PRELOAD: /tmp/evil.so}}", "env must not set LD_PRELOAD"),
        ("{url: 'http://127.0.0.1:6379/'}", "egress.allowed_networks"),
        ("{url: 'http://169.254.169.254/'}", "egress.allowed_networks"),
        ("{url: 'https://h/', tls_key_file: /etc/shadow, tls_cert_file: /x}", "tls_key_file"),
    ],
)
def test_what_may_not_come_at_run_time_is_refused(
    canalgate: Canalgate, registry: Registry, definition: str, said: str
) -> None:
    """By adding and by changing, also a tool of the file, which keeps what it was."""
    tool = Tool(id=T, transport=StdioTransport(command="cmd", args=("a",)))
    registry.put(tool, origin=Origin.FILE)
    for verb in (("add", "other"), ("add", "demo"), ("update", "demo")):
        more = (
            ("--replace",)
            if verb == ("add", "demo")
            else ("--change-transport",)
            if verb[0] == "update"
            else ()
        )
        done = canalgate("tools", *verb, definition, *more)
        assert done.exit_code == Exit.USAGE, done.output
        assert said in done.output.replace("\n", " ")
    (entry,) = registry.entries()
    assert (entry.tool, entry.registered.origin) == (tool, Origin.FILE)


def test_a_tool_of_the_file_whose_place_changes_is_the_operator_s_no_more(
    canalgate: Canalgate, registry: Registry
) -> None:
    """What else changes takes nothing from it."""
    registry.put(Tool(id=T, transport=HttpTransport(url="http://127.0.0.1/mcp")), origin=Origin.FILE)
    assert canalgate("tools", "update", "demo", "{request_timeout: 5}").exit_code == Exit.OK
    assert registry.get(T).registered.origin is Origin.FILE
    assert registry.get(T).tool.transport.local  # type: ignore[union-attr]
    assert canalgate("tools", "update", "demo", "{url: 'http://h.example/mcp'}").exit_code == Exit.OK
    assert registry.get(T).registered.origin is Origin.CHANGED
    assert not registry.get(T).tool.transport.local  # type: ignore[union-attr]


# -- updating ---------------------------------------------------------------------------------------------


def test_an_update_changes_what_it_names(canalgate: Canalgate, registry: Registry) -> None:
    """All else stays, secrets included; so do the operator's switch and drain."""
    old = stdio(
        affinity=Affinity.MCP_SESSION, retry=Retry.SAFE, max_sessions=7, limits=ProcessLimits(open_files=64)
    )
    registry.put(old)
    canalgate("tools", "disable", "demo")
    canalgate("tools", "drain", "demo")
    done = canalgate("tools", "update", "demo", "{request_timeout: 61, description: new}")
    assert done.exit_code == Exit.OK, done.output
    entry = registry.get(T)
    assert entry.tool == Tool(
        **{
            name: getattr(old, name)
            for name in Tool.__slots__
            if name not in {"request_timeout", "description"}
        },
        request_timeout=61,
        description="new",
    )
    assert (entry.enabled, entry.draining) == (False, True)


def test_a_null_gives_the_default_back(canalgate: Canalgate, registry: Registry) -> None:
    """That of the settings, or none."""
    registry.put(stdio(max_sessions=7, idle_timeout=5, retry=Retry.SAFE))
    assert (
        canalgate("tools", "update", "demo", "{max_sessions: null, retry: null, idle_timeout: ~}").exit_code
        == 0
    )
    tool = registry.get(T).tool
    assert (tool.max_sessions, tool.retry, tool.idle_timeout) == (None, Retry.UNSENT, 300)


def test_a_pool_that_is_given_up_leaves_no_size_behind(canalgate: Canalgate, registry: Registry) -> None:
    """Nobody named ``pool_size``, so nobody is told that it does not fit."""
    registry.put(stdio(routing=Routing.LEAST_LOADED, pool_size=9))
    assert canalgate("tools", "update", "demo", "{routing: sticky}").exit_code == Exit.OK
    assert registry.get(T).tool.routing is Routing.STICKY


def test_an_update_that_changes_nothing_says_so(canalgate: Canalgate, registry: Registry) -> None:
    """And makes no version."""
    version = registry.put(stdio())
    done = canalgate("tools", "update", "demo", "{request_timeout: 30}")
    assert done.exit_code == Exit.OK
    assert f"so already (version {version})" in done.stdout


def test_a_command_becomes_a_url_only_on_request(canalgate: Canalgate, registry: Registry) -> None:
    """What goes with the command alone goes with it; all else stays."""
    registry.put(stdio(max_sessions=7, limits=ProcessLimits(open_files=64)))
    done = canalgate("tools", "update", "demo", "{url: 'http://h/mcp'}")
    assert done.exit_code == Exit.USAGE
    assert "transport" in done.output
    assert registry.get(T).tool.transport == stdio().transport
    done = canalgate("tools", "update", "demo", "{url: 'http://h/mcp'}", "--change-transport")
    assert done.exit_code == Exit.OK, done.output
    tool = registry.get(T).tool
    assert tool.transport == HttpTransport(url="http://h/mcp")
    assert (tool.max_sessions, tool.limits) == (7, ProcessLimits())


def test_an_update_of_a_tool_of_the_file_says_that_it_does_not_last(
    canalgate: Canalgate, registry: Registry
) -> None:
    """The file's definition comes back with the next start of a web program."""
    registry.put(stdio(), origin=Origin.FILE)
    assert "settings file" in canalgate("tools", "update", "demo", "{description: new}").stderr
    assert registry.get(T).registered.origin is Origin.FILE


@pytest.mark.parametrize("value", ["true", "false", "null"])
def test_enabled_is_no_matter_of_an_update(canalgate: Canalgate, registry: Registry, value: str) -> None:
    """It names the verbs that are for that."""
    registry.put(stdio())
    done = canalgate("tools", "update", "demo", f"{{enabled: {value}}}")
    assert done.exit_code == Exit.USAGE
    assert "tools enable" in done.output


@pytest.mark.parametrize(
    "verb", [("update", "nobody", "{description: x}"), ("remove", "nobody"), ("refresh", "nobody")]
)
def test_a_tool_that_is_not_there_is_not_found(
    canalgate: Canalgate, client: Client, keys: Keys, verb: tuple[str, ...]
) -> None:
    """One line, with the code."""
    assert client.dbsize() == 0
    done = canalgate("tools", *verb)
    assert done.exit_code == Exit.NOT_FOUND
    assert "no tool 'nobody' is registered (TOOL_NOT_FOUND)" in done.output
    assert_unchanged(client, keys)
