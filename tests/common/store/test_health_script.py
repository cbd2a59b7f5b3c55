"""health_put and health_forget: which grade is kept, and who is told of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run

CHANNEL = "test:registry"
NEWS = ("kind", "health_transition", "tool", "t", "node", "n1", "detail", "enabled -> degraded")


class Scripts:
    """The two scripts with their keys filled in, and a tool ``t`` of version 7."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        client.hset(keys.registry_versions, "t", 7)
        client.set(keys.registry_version, 7)

    def put(
        self,
        record: str,
        before: str = "",
        *news: str,
        tool: str = "t",
        version: int = 7,
    ) -> int:
        keys = self.keys
        names = [
            *(keys.registry_versions, keys.health, keys.registry_version, keys.registry_changes, keys.audit),
        ]
        return int(run(self.client, "health_put", names, [tool, version, before, record, CHANNEL, *news]))

    def forget(self, tool: str = "t", version: int = 7) -> int:
        keys = self.keys
        names = [keys.registry_versions, keys.health, keys.registry_version, keys.registry_changes]
        return int(run(self.client, "health_forget", names, [tool, version, CHANNEL]))

    def kept(self, tool: str = "t") -> bytes | None:
        return self.client.hget(self.keys.health, tool)

    def counter(self) -> int:
        return int(self.client.get(self.keys.registry_version) or 0)

    def audit(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.client.xrange(self.keys.audit)]

    def state(self) -> dict[str, Any]:
        return {key.decode(): self.client.dump(key) for key in sorted(self.client.keys("test:*"))}


@pytest.fixture
def scripts(client: Client, keys: Keys) -> Scripts:
    return Scripts(client, keys)


def test_a_grade_that_stays_tells_nobody(scripts: Scripts) -> None:
    """The record is replaced; no version, no change, no message, no event: 500 tools would wake everybody."""
    scripts.put("first")
    with scripts.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=1)
        assert scripts.put("second", "first") == 1
        scripts.client.publish(CHANNEL, "end")
        message = channel.get_message(timeout=1)
        assert message is not None
        assert message["data"] == b"end"
    assert scripts.kept() == b"second"
    assert (scripts.counter(), scripts.audit()) == (7, [])
    assert scripts.client.zcard(scripts.keys.registry_changes) == 0


def test_a_grade_that_changes_tells_everybody_once(scripts: Scripts) -> None:
    """The catalogues by version and channel, the operators by one event, in the time of Redis."""
    before = scripts.client.time()
    with scripts.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=1)
        assert scripts.put("record", "", *NEWS) == 1
        message = channel.get_message(timeout=1)
        assert message is not None
        assert message["data"] == b"8"
    assert scripts.counter() == 8
    assert scripts.client.zscore(scripts.keys.registry_changes, "t") == 8
    (event,) = scripts.audit()
    at = int(event.pop(b"at"))
    assert event == {
        b"kind": b"health_transition",
        b"tool": b"t",
        b"node": b"n1",
        b"detail": b"enabled -> degraded",
    }
    assert 0 <= at - (before[0] * 1000 + before[1] // 1000) < 1000


@pytest.mark.parametrize("version", [6, 8, 0])
def test_what_was_found_of_another_definition_is_dropped(scripts: Scripts, version: int) -> None:
    """With all that would have been told of it."""
    before = scripts.state()
    assert scripts.put("record", "", *NEWS, version=version) == 0
    assert scripts.state() == before


def test_a_tool_that_is_gone_gets_no_grade(scripts: Scripts) -> None:
    """It was removed while it was asked."""
    assert scripts.put("record", "", *NEWS, tool="gone") == 0
    assert scripts.client.exists(scripts.keys.health, scripts.keys.audit) == 0


@pytest.mark.parametrize("read", ["", "older"])
def test_a_prober_that_was_overtaken_changes_nothing(scripts: Scripts, read: str) -> None:
    """Another has told since; the grade to compare with is another by now."""
    scripts.put("newer")
    before = scripts.state()
    assert scripts.put("late", read, *NEWS) == 0
    assert scripts.state() == before


def test_a_grade_taken_away_does_not_come_back(scripts: Scripts) -> None:
    """The tool was disabled while it was asked."""
    scripts.put("record")
    scripts.forget()
    assert scripts.put("late", "record", *NEWS) == 0
    assert scripts.kept() is None


def test_of_probers_that_saw_the_same_one_tells(scripts: Scripts) -> None:
    """20 threads, one transition: one version, one event a round."""
    threads, rounds = 20, 5
    together = Barrier(threads)

    def tell(number: int, before: str, round_: int) -> int:
        together.wait()
        return scripts.put(f"{round_}-{number}", before, *NEWS)

    with ThreadPoolExecutor(threads) as pool:
        for round_ in range(rounds):
            before = (scripts.kept() or b"").decode()
            assert sum(pool.map(tell, range(threads), [before] * threads, [round_] * threads)) == 1
    assert (scripts.counter(), len(scripts.audit())) == (7 + rounds, rounds)


def test_the_definition_and_the_operators_word_stay(scripts: Scripts) -> None:
    """A grade touches neither."""
    keys = scripts.keys
    scripts.client.hset(keys.registry_tools, "t", "definition")
    scripts.client.hset(keys.registry_states, "t", "off")
    scripts.put("record", "", *NEWS)
    scripts.forget()
    assert scripts.client.hgetall(keys.registry_tools) == {b"t": b"definition"}
    assert scripts.client.hgetall(keys.registry_states) == {b"t": b"off"}
    assert scripts.client.hgetall(keys.registry_versions) == {b"t": b"7"}


def test_taking_a_grade_away_is_announced_once(scripts: Scripts) -> None:
    """The second time there is none."""
    scripts.put("record")
    assert (scripts.forget(), scripts.kept(), scripts.counter()) == (1, None, 8)
    assert scripts.client.zscore(scripts.keys.registry_changes, "t") == 8
    assert (scripts.forget(), scripts.counter()) == (0, 8)
    assert scripts.audit() == []


@pytest.mark.parametrize("version", [0, 6, 8])
def test_the_grade_of_another_definition_is_not_taken_away(scripts: Scripts, version: int) -> None:
    """Who wants that has not read yet what the tool is now."""
    scripts.put("record")
    assert scripts.forget(version=version) == 0
    assert (scripts.kept(), scripts.counter()) == (b"record", 7)


def test_the_grade_of_a_removed_tool_is_taken_away(scripts: Scripts) -> None:
    """A tool registered later under its name begins without one."""
    scripts.put("record")
    scripts.client.hdel(scripts.keys.registry_versions, "t")
    assert scripts.forget(version=0) == 1
    assert scripts.kept() is None
