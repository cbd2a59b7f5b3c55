"""What ``canalgate up`` waits for, and what it says of each tool then."""

from __future__ import annotations

import pytest

from common.domain.capabilities import Capabilities
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool, ToolState
from common.registry.lifecycle import Lifecycle
from common.registry.records import capabilities_to_json
from common.registry.registry import Registry
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys
from gateway_web.cli.first_answers import FirstAnswers
from tests.support.egress import ANYTHING
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

GOOD, BAD, OFF = ToolId("good"), ToolId("bad"), ToolId("off")


@pytest.fixture
def registry(client: Client, keys: Keys) -> Registry:
    """Two tools that nobody has asked yet, and one that nobody will ask."""
    registry = Registry(client, keys, ANYTHING)
    transport = StdioTransport(command="cmd")
    for name in (GOOD, BAD):
        registry.put(Tool(id=name, transport=transport))
    registry.put(Tool(id=OFF, transport=transport, state=ToolState.DISABLED))
    return registry


def ask(registry: Registry, client: Client, keys: Keys, tool: ToolId, error: str | None = None) -> None:
    """Let a tool have been asked what it offers."""
    version = registry.get(tool).registered.version
    found = Capabilities(tool_version=version, discovered_at=1, tools=({"name": "x"},), error=error)
    client.hset(keys.registry_capabilities, tool, capabilities_to_json(found))


def test_it_waits_until_each_tool_has_answered_or_failed(
    registry: Registry, client: Client, keys: Keys
) -> None:
    """An answer and a failure are both an end; what is switched off is not waited for, and not told."""
    answers = FirstAnswers(registry, lambda: True, patience=3600)
    assert not answers.complete()
    ask(registry, client, keys, GOOD)
    assert not answers.complete()
    ask(registry, client, keys, BAD, "it did\n not start")
    assert answers.complete()
    assert answers.lines() == [
        "tool bad: not ready, it did not start; it is asked again",
        "tool good: ready, offers 1",
    ]
    assert answers.summary() == " (not ready: bad)"


def test_a_tool_that_does_not_answer_is_named_when_the_patience_ends(
    registry: Registry, client: Client, keys: Keys
) -> None:
    """The others are served meanwhile."""
    ask(registry, client, keys, GOOD)
    answers = FirstAnswers(registry, lambda: True, patience=0.05)
    wait_until(answers.complete, description="the patience to end")
    assert answers.lines()[0].startswith("tool bad: not ready, it has not answered yet")
    assert answers.summary() == " (still asking: bad)"


def test_good_tools_need_no_word(registry: Registry, client: Client, keys: Keys) -> None:
    """The line for scripts says only what is missing."""
    ask(registry, client, keys, GOOD)
    Lifecycle(client, keys).disable(BAD)
    answers = FirstAnswers(registry, lambda: True, patience=3600)
    assert answers.complete()
    assert answers.summary() == ""


def test_before_calls_can_be_served_nothing_is_complete(client: Client, keys: Keys) -> None:
    """Until then the file's tools may not be registered: a registry without tools is no answer."""
    serving = False
    answers = FirstAnswers(Registry(client, keys, ANYTHING), lambda: serving, patience=3600)
    assert not answers.complete()
    serving = True
    assert answers.complete()
    assert (answers.lines(), answers.summary()) == ([], "")


def test_without_redis_it_waits_no_longer_than_its_patience(proxy: TcpProxy, keys: Keys) -> None:
    """And raises nothing."""
    proxy.refuse()
    away = connect(StoreAddress(url=proxy.url, connect_timeout=0.2, socket_timeout=0.2))
    answers = FirstAnswers(Registry(away, keys, ANYTHING), lambda: True, patience=0.05)
    assert not answers.complete()
    wait_until(answers.complete, description="the patience to end")
    away.close()
