"""The verbs that switch, drain and break off a tool: what they say, what they change, what is audited."""

from __future__ import annotations

import pytest

from common.audit.journal import Journal
from common.circuit.breaker import Circuits
from common.domain.circuit import CircuitState
from common.domain.ids import ToolId, queue_of
from common.domain.tool import StdioTransport, Tool
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.support.unchanged import assert_unchanged
from tests.web.cli.conftest import USER, Canalgate

T = ToolId("demo")
VERBS = [("enable",), ("disable",), ("drain",), ("undrain",), ("circuit", "reset")]


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    registry = Registry(client, keys, ANYTHING)
    registry.put(Tool(id=T, transport=StdioTransport(command="cmd")))
    return registry


@pytest.fixture
def journal(client: Client, keys: Keys, registry: Registry) -> Journal:
    return Journal(client, keys)


def newest(journal: Journal) -> tuple[str, str, str]:
    (record,) = journal.newest(1)
    return record.kind, record.fields["actor"], record.fields["tool"]


@pytest.mark.parametrize(
    ("verb", "said", "enabled", "draining"),
    [
        ("disable", "demo is disabled", False, False),
        ("enable", "demo is enabled", True, False),
        ("drain", "demo is draining", True, True),
    ],
)
def test_a_verb_changes_the_tool_and_is_audited_under_the_user(
    canalgate: Canalgate,
    registry: Registry,
    journal: Journal,
    verb: str,
    said: str,
    enabled: bool,
    draining: bool,
) -> None:
    """The second time it is no error, and it says that it was so."""
    first, second = canalgate("tools", verb, "demo"), canalgate("tools", verb, "demo")
    assert (first.exit_code, first.stdout) == (Exit.OK, f"{said}\n")
    assert (second.exit_code, second.stdout) == (Exit.OK, f"{said} already\n")
    entry = registry.get(T)
    assert (entry.enabled, entry.draining) == (enabled, draining)
    assert newest(journal) == (f"tool_{verb}{'ed' if verb == 'drain' else 'd'}", f"cli:{USER}", "demo")


def test_a_drain_is_taken_back(canalgate: Canalgate, registry: Registry, journal: Journal) -> None:
    """And only by its own verb."""
    canalgate("tools", "drain", "demo")
    canalgate("tools", "enable", "demo")
    assert registry.get(T).draining
    assert canalgate("tools", "undrain", "demo").stdout == "demo takes new sessions\n"
    assert not registry.get(T).draining
    assert newest(journal) == ("tool_undrained", f"cli:{USER}", "demo")
    assert canalgate("tools", "undrain", "demo").stdout == "demo takes new sessions already\n"


def test_a_tool_that_is_enabled_while_it_drains_says_so(canalgate: Canalgate, registry: Registry) -> None:
    """Whoever wants it to serve again learns what is still missing; without a drain there is no note."""
    assert canalgate("tools", "enable", "demo").stderr == ""
    canalgate("tools", "drain", "demo")
    canalgate("tools", "disable", "demo")
    for said in ("demo is enabled\n", "demo is enabled already\n"):
        done = canalgate("tools", "enable", "demo")
        assert (done.exit_code, done.stdout) == (Exit.OK, said)
        assert "demo is still draining" in done.stderr
        assert "canalgate tools undrain demo" in done.stderr


def test_waiting_for_a_drain_ends_when_nothing_is_left(canalgate: Canalgate, registry: Registry) -> None:
    """Long before the time is over."""
    done = canalgate("tools", "drain", "demo", "--wait", "3600")
    assert done.exit_code == Exit.OK
    assert done.stdout == "demo is draining\ndemo is drained\n"
    assert "0 sessions, 0 calls waiting, 0 in flight" in done.stderr


def test_waiting_for_a_drain_tells_what_is_left(
    canalgate: Canalgate, registry: Registry, client: Client, keys: Keys
) -> None:
    """With an exit code of its own; the tool goes on draining."""
    client.hset(keys.sessions(T), "a:b", "n 1 1")
    client.lpush(queue_of(T), "message", "message")
    done = canalgate("tools", "drain", "demo", "--wait", "0")
    assert done.exit_code == Exit.FAILED
    assert "1 sessions, 2 calls waiting, 0 in flight" in done.stderr
    assert "demo is not drained after 0 s" in done.stderr
    assert registry.get(T).draining


@pytest.mark.parametrize("wait", ["-1", "soon"])
def test_a_time_that_is_none_is_refused_before_anything_is_done(
    canalgate: Canalgate, registry: Registry, wait: str
) -> None:
    """It names the option."""
    done = canalgate("tools", "drain", "demo", "--wait", wait)
    assert done.exit_code == Exit.USAGE
    assert "--wait" in done.output
    assert not registry.get(T).draining


def test_a_circuit_is_tripped_and_reset(
    canalgate: Canalgate, journal: Journal, client: Client, keys: Keys
) -> None:
    """With the reason in the circuit and in the journal."""
    circuits = Circuits(client, keys)
    done = canalgate("tools", "circuit", "trip", "demo", "--reason", "it eats data")
    assert (done.exit_code, done.stdout) == (Exit.OK, "the circuit of demo is tripped\n")
    assert (circuits.status(T).forced, circuits.status(T).note) == (True, "it eats data")
    assert newest(journal) == ("circuit_tripped", f"cli:{USER}", "demo")
    (record,) = journal.newest(1)
    assert (record.fields["reason"], record.fields["detail"]) == ("it eats data", "closed -> open")
    assert "tripped already" in canalgate("tools", "circuit", "trip", "demo", "--reason", "still").stdout
    assert circuits.status(T).note == "still"
    done = canalgate("tools", "circuit", "reset", "demo")
    assert (done.exit_code, done.stdout) == (Exit.OK, "the circuit of demo is closed\n")
    assert circuits.status(T).state is CircuitState.CLOSED
    assert newest(journal) == ("circuit_reset", f"cli:{USER}", "demo")


def test_a_closed_circuit_need_not_be_reset(canalgate: Canalgate, journal: Journal) -> None:
    """That is no event."""
    assert canalgate("tools", "circuit", "reset", "demo").stdout == "the circuit of demo is closed already\n"
    assert [record.kind for record in journal.newest(9)] == ["tool_registered"]


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--reason", " "), Exit.USAGE), (("--reason", "x" * 501), Exit.USAGE), ((), Exit.USAGE)],
)
def test_a_circuit_is_tripped_with_a_reason(
    canalgate: Canalgate, journal: Journal, client: Client, keys: Keys, words: tuple[str, ...], code: Exit
) -> None:
    """Or other operators would not know what to do; nothing is changed."""
    done = canalgate("tools", "circuit", "trip", "demo", *words)
    assert done.exit_code == code
    assert "reason" in done.output
    assert Circuits(client, keys).status(T).state is CircuitState.CLOSED
    assert [record.kind for record in journal.newest(9) if record.kind != "admin_refused"] == [
        "tool_registered"
    ]


@pytest.mark.parametrize("verb", [*VERBS, ("circuit", "trip", "--reason", "x"), ("drain", "--wait", "0")])
def test_a_tool_that_is_not_there_is_not_found(
    canalgate: Canalgate, client: Client, keys: Keys, verb: tuple[str, ...]
) -> None:
    """One line with the code, and nothing is written, no circuit either."""
    done = canalgate("tools", *verb, "nobody")
    assert done.exit_code == Exit.NOT_FOUND
    assert "no tool 'nobody' is registered (TOOL_NOT_FOUND)" in done.output
    assert_unchanged(client, keys)


@pytest.mark.parametrize("verb", VERBS)
def test_without_redis_a_verb_says_so(
    canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    """With the exit code for that."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "unix:///nonexistent/redis.sock")
    done = canalgate("tools", *verb, "demo")
    assert done.exit_code == Exit.UNREACHABLE
    assert "Traceback" not in done.output


def test_a_user_without_a_name_is_told_by_number(
    canalgate: Canalgate, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under any number."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}["no such user"])
    canalgate("tools", "disable", "demo")
    assert newest(journal)[1].startswith("cli:uid ")
