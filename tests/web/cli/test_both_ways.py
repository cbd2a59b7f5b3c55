"""Every verb of the command line, here on Redis and through a gateway's admin API: the same output and exit code.

A verb without a row fails. What has no counterpart elsewhere is in :data:`OF_THIS_MACHINE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
import yaml

from common.audit.journal import Journal
from common.calls.dead_letters import dead_letter_command
from common.circuit.breaker import Circuits
from common.domain.audit import AuditEvent, EventKind
from common.domain.content_rules import ContentRules, Pinning
from common.domain.ids import NodeId, TenantId, ToolId, encode_part, queue_of
from common.domain.tool import StdioTransport, Tool
from common.identity.api_keys import ApiKeys
from common.registry.registry import Registry
from common.settings import Settings, load
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.desk import TenantDesk
from gateway_web.cli.anywhere import LOCAL
from gateway_web.cli.app import cli
from gateway_web.cli.output import Exit
from tests.common.registry.test_quarantine import Desk, T, mcp_tool
from tests.support.egress import ANYTHING
from tests.support.redis import RedisServer
from tests.web.cli.conftest import Canalgate
from tests.web.cli.served import TOKENS, admin_app, listening

DEMO = ToolId("demo")
NODE = "worker1@host:ab12"
SETTINGS = {"tenants": {"listed": [{"id": "acme", "requests_per_minute": 60}], "allow_unlisted": True}}
WHO = ("--tenant", "t", "--client", "c", "--tool", "demo", "--name", "x")


@dataclass(frozen=True)
class Row:
    """A verb, what is typed behind it, and how it ends. ``{key}`` and ``{digest}`` are what there is of these."""

    verb: str
    words: str = ""
    code: Exit = Exit.OK
    json: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.words}{' --json' if self.json else ''}"


ROWS = [
    Row("status", code=Exit.OK),
    Row("status", json=True),
    Row("queues"),
    Row("queues", json=True),
    Row("workers"),
    Row("workers", json=True),
    Row("tools"),
    Row("tools", json=True),
    Row("tools list"),
    Row("tools list", json=True),
    Row("tools show", "demo"),
    Row("tools show", "demo", json=True),
    Row("tools show", "nobody", Exit.NOT_FOUND),
    Row("tools add", "new {command: cmd}"),
    Row("tools add", "new {command: --x}", Exit.USAGE),
    Row("tools add", "demo {command: cmd}", Exit.CONFLICT),
    Row("tools add", "demo {command: x} --replace"),
    Row("tools update", "demo {description: other}"),
    Row("tools update", "demo {request_timeout: soon}", Exit.USAGE),
    Row("tools update", "demo {description: other} --version 77", Exit.CONFLICT),
    Row("tools remove", "demo"),
    Row("tools remove", "demo --version 77", Exit.CONFLICT),
    Row("tools refresh", "demo"),
    Row("tools enable", "demo"),
    Row("tools disable", "demo"),
    Row("tools drain", "demo --wait 0", Exit.FAILED),
    Row("tools undrain", "demo"),
    Row("tools circuit trip", "demo --reason broken"),
    Row("tools circuit reset", "demo"),
    Row("tools quarantine list"),
    Row("tools quarantine list", json=True),
    Row("tools quarantine show", f"'{T}' a"),
    Row("tools quarantine approve", f"'{T}' a --digest {{digest}}"),
    Row("tools quarantine reject", f"'{T}' a --digest {{digest}}"),
    Row("sessions"),
    Row("sessions", json=True),
    Row("sessions close", "nobody", Exit.NOT_FOUND),
    Row("calls list"),
    Row("calls list", "--state running", json=True),
    Row("calls list", "--state lost", Exit.USAGE),
    Row("calls cancel", "nobody", Exit.NOT_FOUND),
    Row("tenants list"),
    Row("tenants list", json=True),
    Row("tenants show", "acme"),
    Row("tenants show", "acme", json=True),
    Row("tenants set", "acme {max_calls: 3}"),
    Row("tenants set", "acme {max_calls: 0}", Exit.USAGE),
    Row("tenants set", "acme {max_calls: 3} --version 77", Exit.CONFLICT),
    Row("tenants remove", "set"),
    Row("tenants remove", "acme", Exit.NOT_FOUND),
    Row("tenants usage"),
    Row("tenants usage", "acme", json=True),
    Row("keys issue", "--tenant acme --client bot"),
    Row("keys issue", "--tenant acme --client bot", json=True),
    Row("keys list"),
    Row("keys list", json=True),
    Row("keys rotate", "{key} --grace 1h"),
    Row("keys revoke", "{key} --reason lost"),
    Row("keys revoke", "0000000000000000", Exit.NOT_FOUND),
    Row("policy show"),
    Row("policy test", " ".join(WHO)),
    Row("policy test", " ".join(WHO), json=True),
    Row("credentials flush", "--tool demo"),
    Row("credentials rotate"),
    Row("credentials rotate", "--tool nobody", Exit.NOT_FOUND),
    Row("dead-letters list"),
    Row("dead-letters list", "--most 1", json=True),
    Row("dead-letters show", "{letter}"),
    Row("dead-letters show", "{letter}", json=True),
    Row("dead-letters show", "{letter} --message", json=True),
    Row("dead-letters show", "1-1", Exit.NOT_FOUND),
    Row("dead-letters show", "newest", Exit.USAGE),
    Row("dead-letters drop", "{letter}"),
    Row("audit"),
    Row("audit", "-n 2 --tool demo", json=True),
    Row("audit", "--kind nothing", Exit.USAGE),
    Row("config show"),
    Row("config schema"),
    Row("config export"),
    Row("config export", json=True),
    Row("config import", "tools.yaml"),
    Row("config import", "tools.yaml --dry-run --prune", json=True),
]
OF_THIS_MACHINE = {
    "apply": "test_apply.py",
    "audit verify": "test_audit.py",
    "call": "test_call.py",
    "client-config": "test_client_config.py",
    "completion": "test_completion.py",
    "config check": "test_verbs.py",
    "doctor": "test_verbs.py",
    "export": "test_verbs.py",
    "flower": "../../e2e/test_flower.py",
    "import": "test_verbs.py",
    "policy check": "test_policy.py",
    "up": "../../support/servers/gateway.py",
    "version": "test_verbs.py",
    "web": "../../e2e/test_processes.py",
    "worker": "../../e2e/test_processes.py",
}
"""And which test executes it."""


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[str]:
    """All that can be typed: commands, and groups that do something by themselves."""
    command = typer.main.get_command(cli) if command is None else command
    children = getattr(command, "commands", {})
    if path and (not children or command.invoke_without_command):
        yield " ".join(path)
    for name, child in children.items():
        yield from verbs(child, (*path, name))


def test_every_verb_has_a_row() -> None:
    """Here or in the test that is named, which types it."""
    assert set(verbs()) == {row.verb for row in ROWS} | set(OF_THIS_MACHINE)
    for verb, place in OF_THIS_MACHINE.items():
        text = (Path(__file__).parent / place).read_text(encoding="utf-8")
        assert f'"{verb.split()[-1]}"' in text, (verb, place)


@pytest.fixture
def standing(client: Client, keys: Keys) -> Callable[[], dict[str, str]]:
    """Makes the same state anew: tools, one of them in quarantine, a worker, sessions, events, a key, a tenant."""

    def made() -> dict[str, str]:
        client.flushdb()
        registry = Registry(client, keys, ANYTHING)
        registry.put(Tool(id=DEMO, transport=StdioTransport(command="cmd", env={"TOKEN": "hunter2"})))
        desk = Desk(client, keys, ContentRules(pinning=Pinning.QUARANTINE))
        desk.find(mcp_tool("a", "good"))
        desk.find(mcp_tool("a", "evil\u202e"))
        Circuits(client, keys).trip(T, "it [red]eats data")
        now = client.time()[0] * 1000
        client.zadd(keys.nodes, {NODE: now + 60_000})
        client.hset(keys.sessions(DEMO), f"{encode_part('t:1')}:{encode_part('me@x')}", f"{NODE} 7 {now}")
        client.lpush(queue_of(DEMO), f'{{"enqueued_at":{now},')
        for number in range(3):
            Journal(client, keys).record(
                AuditEvent(kind=EventKind.SESSION_CREATED, tenant="a", tool=DEMO, detail=f"number {number}")
            )
        service = ApiKeys(client, keys)
        record, _ = service.issue(
            tenant="acme", client="ide", subject="", scopes=(), note="", expires_in=None, actor="t"
        )
        TenantDesk(client, keys, load()).change(TenantId("set"), {"max_calls": 5}, (), actor="t")
        (waiting,) = desk.quarantine.waiting()
        facts = {"reason": "not_json", "queue": queue_of(DEMO), "node": NODE, "task_id": "i-1"}
        client.execute_command(*dead_letter_command(keys, NodeId(NODE), facts, message=b"x\xff"))
        return {"key": record.id, "digest": waiting.digest, "letter": dated(client, keys)}

    return made


LETTER = "1795922567208-0"


def dated(client: Client, keys: Keys) -> str:
    """Give the only dead letter the same id, and so the same time, whenever it was made."""
    ((_, fields),) = client.xrange(keys.dead_letters)
    client.delete(keys.dead_letters)
    client.xadd(keys.dead_letters, fields, id=LETTER)
    return LETTER


@pytest.fixture(scope="module")
def gateway(redis_server: RedisServer) -> Iterator[str]:
    """The address of a gateway elsewhere that has the same settings."""
    egress = {"allowed_commands": ["cmd", "x", "y"]}
    settings = Settings.model_validate({**SETTINGS, "egress": egress, "redis": {"key_prefix": "test"}})
    with listening(admin_app(redis_server.url(), settings)) as url:
        yield url


@pytest.fixture
def elsewhere(canalgate: Canalgate, gateway: str) -> Canalgate:
    """The command, pointed there."""
    Path("canalgate.yaml").write_text(yaml.safe_dump(SETTINGS))
    Path("tools.yaml").write_text(
        yaml.safe_dump({"tools": {"new": {"command": "x"}, "demo": {"command": "y"}}})
    )
    Path("token").write_text(TOKENS["admin"])
    return lambda *words: canalgate("--url", gateway, "--token-file", "token", *words)


def typed(row: Row, there_is: dict[str, str]) -> list[str]:
    """The words of a row; what is in quotes or braces is one."""
    text = row.words
    for name, value in there_is.items():
        text = text.replace(f"{{{name}}}", value)
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\{[^}]*\}|\S+", text)]
    return [*row.verb.split(), *words, *(["--json"] if row.json else [])]


VARYING = (
    (re.compile(r"cgk_\S+|[0-9a-f]{16,}"), "SECRET"),
    (re.compile(r"(?:cli|admin):[\w-]+"), "ACTOR"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:\+00:00|Z)?"), "TIME"),
    (re.compile(r"\d{13}-\d+"), "ID"),
    (re.compile(r"\d+\.\d+|\d{10,}|\b\d+ s\b"), "NUMBER"),
    (re.compile(r"  +"), "  "),
)


def steady(text: str) -> str:
    """What is said, without what is another each time."""
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_verb_is_the_same_here_and_elsewhere(
    row: Row, canalgate: Canalgate, elsewhere: Canalgate, standing: Callable[[], dict[str, str]]
) -> None:
    """To the character, but for times and names of actors; JSON is JSON."""
    here = canalgate(*typed(row, standing()))
    assert here.exit_code == row.code, here.output
    there = elsewhere(*typed(row, standing()))
    assert there.exit_code == row.code, there.output
    if row.verb not in {"config show", "policy show"}:
        assert steady(there.stdout) == steady(here.stdout)
    assert steady(there.stderr) == steady(here.stderr)
    if row.json:
        assert shape(orjson.loads(there.stdout)) == shape(orjson.loads(here.stdout))
    for done in (here, there):
        assert "Traceback" not in done.output
        assert "hunter2" not in done.output
        assert done.exit_code == Exit.OK or done.stdout == "" or row.verb == "tools drain"


def shape(value: Any) -> Any:
    """The members of JSON, and of what kind each is."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


TYPED_BEHIND = ("status", "tools", "tools show", "tools circuit trip", "keys issue", "audit", "config export")


@pytest.mark.parametrize("verb", TYPED_BEHIND)
def test_a_gateway_may_be_named_behind_the_verb(
    verb: str,
    canalgate: Canalgate,
    elsewhere: Canalgate,
    gateway: str,
    standing: Callable[[], dict[str, str]],
) -> None:
    """The same options with the same meaning at both places; two gateways are one too many."""
    row = next(row for row in ROWS if row.verb == verb)
    before = elsewhere(*typed(row, standing()))
    words = typed(row, standing())
    behind = canalgate(*words, "--url", gateway, "--token-file", "token")
    assert (behind.exit_code, steady(behind.output)) == (before.exit_code, steady(before.output))
    both = elsewhere(*words, "--url", "http://127.0.0.1:9")
    assert (both.exit_code, "--url is given twice" in both.stderr) == (Exit.USAGE, True)


def test_every_verb_takes_a_gateway_behind_it() -> None:
    """Or refuses it there, if it is of this machine alone; no verb is without the option."""
    root: Any = typer.main.get_command(cli)
    for verb in verbs():
        command = root
        for word in verb.split():
            command = command.commands[word]
        (option,) = (parameter for parameter in command.params if "--url" in parameter.opts)
        assert option.hidden == (verb in LOCAL), verb


@pytest.mark.parametrize("verb", sorted(LOCAL))
def test_what_is_of_this_machine_refuses_a_gateway_elsewhere(verb: str, canalgate: Canalgate) -> None:
    """Before the verb and behind it, and does nothing."""
    assert verb in OF_THIS_MACHINE
    argument = {"apply": ["f"], "completion": ["bash"], "import": ["f"]}.get(verb, [])
    for words in (("--url", "http://a", *verb.split(), *argument), (*verb.split(), *argument, "--url", "b")):
        done = canalgate(*words)
        assert (done.exit_code, done.stdout) == (Exit.USAGE, ""), done.output
        assert "leave --url out" in done.stderr
        assert ("config import" in done.stderr) == (verb == "apply")


def test_both_change_the_same_and_say_who(
    canalgate: Canalgate, elsewhere: Canalgate, client: Client, keys: Keys, standing: Callable[[], object]
) -> None:
    """The user of the operating system here, the token's name elsewhere."""
    standing()
    for run, actor in ((canalgate, "cli:ann"), (elsewhere, "admin:admin-1")):
        assert run("tools", "disable", "demo").exit_code == Exit.OK
        assert run("tools", "enable", "demo").exit_code == Exit.OK
        (newest,) = Journal(client, keys).newest(1)
        assert (newest.kind, newest.fields["actor"]) == ("tool_enabled", actor)
