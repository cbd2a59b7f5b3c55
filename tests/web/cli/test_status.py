"""``canalgate status``: everything at one look, and an exit code that says whether calls can be served."""

from __future__ import annotations

import orjson
import pytest
from rich.console import Console

from common.circuit.breaker import Circuits
from common.domain.ids import NodeId, ToolId
from common.domain.tool import StdioTransport, Tool
from common.registry.lifecycle import Lifecycle
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli import status as module
from gateway_web.cli.local_control import local_control
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.web.cli.conftest import Canalgate

T = ToolId("demo")
NODE = NodeId("worker1@host:ab12")


@pytest.fixture
def up(client: Client, keys: Keys) -> None:
    """One tool that takes calls, one worker that lives, two calls that wait."""
    Registry(client, keys, ANYTHING).put(Tool(id=T, transport=StdioTransport(command="cmd")))
    seconds = client.time()[0]
    client.zadd(keys.nodes, {NODE: (seconds + 6) * 1000})
    for age in (9, 4):
        client.lpush("tool.demo", f'{{"enqueued_at":{(seconds - age) * 1000},')


@pytest.mark.usefixtures("up")
def test_it_shows_workers_tools_and_queues(canalgate: Canalgate) -> None:
    """Each with what an operator looks for first."""
    shown = canalgate("status")
    assert shown.exit_code == Exit.OK
    lines = shown.stdout.splitlines()
    assert lines[0] == "ready; Redis answers"
    worker = next(line for line in lines if line.startswith(NODE)).split()
    assert worker[2:] == ["s", "0", "0"]
    tool = next(line for line in lines if line.startswith("demo"))
    assert "enabled" in tool
    assert "closed" in tool
    assert tool.split()[-4] == "2"  # waiting; then the oldest's age and the rate
    assert 8 <= float(tool.split()[-3]) < 60


@pytest.mark.usefixtures("up")
def test_the_same_for_scripts(canalgate: Canalgate) -> None:
    """As JSON."""
    told = orjson.loads(canalgate("status", "--json").stdout)
    assert (told["ready"], told["missing"], told["redis"]) == (True, [], True)
    assert [worker["node"] for worker in told["workers"]] == [NODE]
    assert [(tool["id"], tool["queue"]["waiting"]) for tool in told["tools"]] == [("demo", 2)]


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    "what", ["no worker lives", "no tool takes calls", "circuit", "no tool is registered"]
)
def test_a_gateway_that_cannot_serve_has_an_exit_code_of_its_own(
    what: str, canalgate: Canalgate, client: Client, keys: Keys
) -> None:
    """And says what is missing: a lease that has ended is no worker, an open circuit takes no calls."""
    match what:
        case "no worker lives":
            client.zadd(keys.nodes, {NODE: 1})
        case "no tool takes calls":
            Lifecycle(client, keys).disable(T, actor="t")
        case "circuit":
            Circuits(client, keys).trip(T, "it is broken")
            what = "no tool takes calls"
        case _:
            Registry(client, keys, ANYTHING).remove(T)
    shown = canalgate("status")
    assert shown.exit_code == Exit.REFUSED
    assert f"not ready: {what}" in shown.stdout


def test_without_redis_it_says_so(canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exit code of what does not answer."""
    monkeypatch.setenv("CANALGATE_REDIS__URL", "redis://127.0.0.1:1/0")
    assert canalgate("status").exit_code == Exit.UNREACHABLE


@pytest.mark.usefixtures("up")
def test_the_live_screen_shows_the_same(canalgate: Canalgate, client: Client, keys: Keys) -> None:
    """Names are text, whatever is in them."""
    Registry(client, keys, ANYTHING).put(Tool(id=ToolId("[bold]x"), transport=StdioTransport(command="cmd")))
    console = Console(width=200, record=True, quiet=False)
    console.print(module._screen(module.status(local_control(None))))
    text = console.export_text()
    assert "ready; Redis answers" in text
    assert NODE in text
    assert "[bold]x" in text


@pytest.mark.usefixtures("up")
def test_watching_goes_on_until_it_is_interrupted(
    canalgate: Canalgate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks again and again; Ctrl-C is a good end."""
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert canalgate("status", "--watch", "--interval", "0.5").exit_code == Exit.OK
    assert looks == [0.5, 0.5, 0.5]


def test_json_is_not_watched(canalgate: Canalgate) -> None:
    """One document, or a screen."""
    assert canalgate("status", "--json", "--watch").exit_code == Exit.USAGE
