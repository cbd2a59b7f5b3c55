"""The scripts that change the registry, as two writers meet in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import orjson
import pytest

from common.domain.ids import ToolId
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run

ANY = -1
CHANNEL = "test:registry"


class Scripts:
    """The scripts with their keys filled in."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.client = client
        self.keys = keys

    def put(
        self, tool: str, definition: str = "{}", expected: int = ANY, *, added: str = ""
    ) -> tuple[int, int]:
        keys = self.keys
        names = [
            *(keys.registry_tools, keys.registry_versions, keys.registry_version, keys.registry_changes),
            keys.audit,
        ]
        told = [tool, definition, expected, CHANNEL, "me", added]
        done, version = run(self.client, "registry_put", names, told)
        return done, version

    def remove(self, tool: str, expected: int = ANY) -> tuple[int, int]:
        keys = self.keys
        names = [
            *(keys.registry_tools, keys.registry_versions, keys.registry_version, keys.registry_changes),
            *(keys.audit, keys.circuit(ToolId(tool)), keys.circuit_permits(ToolId(tool))),
            keys.pins(ToolId(tool)),
            *(keys.registry_capabilities, keys.registry_refresh, keys.registry_states, keys.health),
        ]
        done, version = run(self.client, "registry_remove", names, [tool, expected, CHANNEL, "me"])
        return done, version

    def say(
        self, tool: str, part: str, value: str, *, by: str = "me", kind: str = "tool_enabled"
    ) -> list[Any]:
        keys = self.keys
        names = [
            *(keys.registry_versions, keys.registry_states, keys.registry_version, keys.registry_changes),
            keys.audit,
        ]
        answer: list[Any] = run(self.client, "tool_state_put", names, [tool, part, value, by, CHANNEL, kind])
        return [answer[0], *(raw and orjson.loads(raw) for raw in answer[1:])]

    def said(self, tool: str) -> dict[str, Any] | None:
        raw = self.client.hget(self.keys.registry_states, tool)
        return None if raw is None else dict(orjson.loads(raw))

    def audited(self) -> list[dict[str, str]]:
        """The events, the oldest first."""
        found: Any = self.client.xrange(self.keys.audit)
        return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in found]

    def capabilities(self, tool: str, version: int, begun: int, found: str = "found") -> int:
        keys = self.keys
        names = [
            *(keys.registry_versions, keys.registry_capabilities, keys.registry_version),
            *(keys.registry_changes, keys.registry_refresh),
        ]
        return int(run(self.client, "capabilities_put", names, [tool, found, version, begun, CHANNEL]))

    def refresh(self, tool: str) -> int:
        keys = self.keys
        names = [keys.registry_versions, keys.registry_refresh]
        return int(run(self.client, "refresh_request", names, [tool, CHANNEL]))

    def counter(self) -> int:
        return int(self.client.get(self.keys.registry_version) or 0)

    def wanted(self, tool: str) -> int:
        return int(self.client.hget(self.keys.registry_refresh, tool) or 0)

    def state(self) -> dict[str, Any]:
        return {key.decode(): self.client.dump(key) for key in sorted(self.client.keys("test:*"))}


@pytest.fixture
def scripts(client: Client, keys: Keys) -> Scripts:
    return Scripts(client, keys)


def test_of_writers_with_the_same_version_exactly_one_wins(scripts: Scripts) -> None:
    """20 threads read version n and write: one gets through each round, and its definition is what is kept."""
    _, version = scripts.put("t")
    threads, rounds = 20, 5
    together = Barrier(threads)

    def write(number: int, expected: int) -> tuple[int, int, int]:
        together.wait()
        return (*scripts.put("t", str(number), expected), number)

    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            answers = list(pool.map(write, range(threads), [version] * threads))
            winners = [(new, number) for done, new, number in answers if done]
            assert len(winners) == 1
            version, winner = winners[0]
            assert {found for done, found, _ in answers if not done} == {version}
            assert scripts.client.hget(scripts.keys.registry_tools, "t") == str(winner).encode()
    assert scripts.counter() == rounds + 1


def test_no_update_is_lost(scripts: Scripts) -> None:
    """20 threads each add one by read, compare and set: the sum is 20."""
    _, version = scripts.put("t", "0")

    def add_one(_: int) -> None:
        done = 0
        found = version
        while not done:
            with scripts.client.pipeline(transaction=True) as pipe:
                pipe.hget(scripts.keys.registry_tools, "t")
                pipe.hget(scripts.keys.registry_versions, "t")
                value, found = pipe.execute()
            done, _ = scripts.put("t", str(int(value) + 1), int(found))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(add_one, range(20)))
    assert scripts.client.hget(scripts.keys.registry_tools, "t") == b"20"


def test_a_new_tool_must_be_new_if_asked_for(scripts: Scripts) -> None:
    """Expected 0 means absent."""
    assert scripts.put("t", expected=0) == (1, 1)
    assert scripts.put("t", expected=0) == (0, 1)


@pytest.mark.parametrize("expected", [1, 7])
def test_a_refused_write_changes_nothing(scripts: Scripts, expected: int) -> None:
    """Not the counter, not the list of changes."""
    scripts.put("t")
    scripts.put("t")
    before = scripts.state()
    assert scripts.put("t", "new", expected) == (0, 2)
    assert scripts.remove("t", expected) == (0, 2)
    assert scripts.capabilities("t", expected, 0) == 0
    assert scripts.say("nobody", "switch", '"off"') == [0, None, None]
    assert scripts.state() == before


def test_a_tool_registered_again_never_repeats_a_version(scripts: Scripts) -> None:
    """A session of the first definition must not pass for one of the second."""
    seen = []
    for _ in range(5):
        seen.append(scripts.put("t", expected=0)[1])
        scripts.put("other")
        scripts.remove("t", seen[-1])
    assert len(set(seen)) == 5
    assert seen == sorted(seen)


def test_a_removed_tool_leaves_only_the_news_of_its_end(scripts: Scripts) -> None:
    """Definition, version, capabilities, wish, operator's word, health and circuit are gone; its sessions stay."""
    keys, tool = scripts.keys, ToolId("t")
    _, version = scripts.put("t")
    scripts.put("other")
    scripts.capabilities("t", version, 0)
    scripts.refresh("t")
    for name in ("t", "other"):
        scripts.say(name, "switch", '"off"')
        scripts.client.hset(keys.health, name, "{}")
        scripts.client.hset(keys.circuit(ToolId(name)), "state", "open")
        scripts.client.zadd(keys.circuit_permits(ToolId(name)), {"i": 1})
    scripts.client.hset(keys.sessions(tool), "a:b", "node 1 1")
    done, at = scripts.remove("t")
    for hash_name in (
        *(keys.registry_tools, keys.registry_versions, keys.registry_capabilities, keys.registry_refresh),
        *(keys.registry_states, keys.health),
    ):
        assert not scripts.client.hexists(hash_name, "t"), hash_name
    assert scripts.client.exists(keys.circuit(tool), keys.circuit_permits(tool)) == 0
    assert (done, scripts.client.zscore(keys.registry_changes, "t")) == (1, at)
    assert scripts.client.hlen(keys.sessions(tool)) == 1
    other = ToolId("other")
    assert scripts.client.exists(keys.circuit(other), keys.circuit_permits(other)) == 2
    assert [scripts.client.hexists(name, "other") for name in (keys.registry_states, keys.health)] == [
        True
    ] * 2
    assert scripts.remove("t") == (0, 0)


def test_every_change_is_on_the_list_and_announced(scripts: Scripts) -> None:
    """Whoever looks for changes since a version finds them, and is told that it is worth looking."""
    with scripts.client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=1)
        _, first = scripts.put("a")
        _, second = scripts.put("b")
        scripts.capabilities("a", first, 0)
        _, fourth = scripts.remove("b")
        heard = [message["data"] for _ in range(4) if (message := channel.get_message(timeout=1))]
    assert heard == [b"1", b"2", b"3", b"4"]
    assert (first, second, fourth, scripts.counter()) == (1, 2, 4, 4)
    assert scripts.client.zrange(scripts.keys.registry_changes, 0, -1, withscores=True) == [
        (b"a", 3.0),
        (b"b", 4.0),
    ]


@pytest.mark.parametrize("change", ["put", "remove", "again"])
def test_what_was_found_under_another_definition_is_not_stored(scripts: Scripts, change: str) -> None:
    """The tool was changed, removed, or removed and registered again while its backend was asked."""
    _, version = scripts.put("t")
    if change != "put":
        scripts.remove("t")
    if change != "remove":
        scripts.put("t")
    assert scripts.capabilities("t", version, 0) == 0
    assert scripts.client.hlen(scripts.keys.registry_capabilities) == 0


def test_capabilities_are_stored_under_the_definition_they_were_asked_of(scripts: Scripts) -> None:
    """The catalogue's version grows, the definition's does not."""
    _, version = scripts.put("t")
    assert scripts.capabilities("t", version, 0, "found") == 1
    assert scripts.client.hget(scripts.keys.registry_capabilities, "t") == b"found"
    assert scripts.client.hget(scripts.keys.registry_versions, "t") == str(version).encode()
    assert scripts.counter() == version + 1


@pytest.mark.parametrize(("after", "kept"), [(-1, True), (0, False), (1, False)])
def test_a_wish_later_than_the_question_is_kept(scripts: Scripts, after: int, kept: bool) -> None:
    """An answer that may be older than the wish does not fulfil it."""
    _, version = scripts.put("t")
    scripts.refresh("t")
    wanted = scripts.wanted("t")
    assert scripts.capabilities("t", version, wanted + after) == 1
    assert (scripts.wanted("t") == wanted) == kept


def test_a_wish_carries_the_time_of_redis(scripts: Scripts) -> None:
    """And is refused for a tool that is not there."""
    assert scripts.refresh("t") == 0
    assert scripts.wanted("t") == 0
    scripts.put("t")
    before = scripts.client.time()
    assert scripts.refresh("t") == 1
    assert 0 <= scripts.wanted("t") - (before[0] * 1000 + before[1] // 1000) < 1000


# -- the operator's word ----------------------------------------------------------------------------------


def test_an_operator_s_word_is_kept_beside_the_definition(scripts: Scripts) -> None:
    """The definition's version stays, the registry's grows, and who said it when is known."""
    _, version = scripts.put("t")
    before = scripts.client.time()
    assert scripts.say("t", "switch", '"off"', by="cli:ann")[:2] == [1, None]
    said = scripts.said("t")
    assert said is not None
    assert (said["switch"], said["draining"], said["by"]) == ("off", False, "cli:ann")
    assert 0 <= said["since"] - (before[0] * 1000 + before[1] // 1000) < 1000
    assert scripts.client.hget(scripts.keys.registry_versions, "t") == str(version).encode()
    assert scripts.counter() == version + 1
    assert scripts.client.zscore(scripts.keys.registry_changes, "t") == version + 1


def test_both_parts_are_kept_apart(scripts: Scripts) -> None:
    """Who drains does not switch, and who switches does not drain; each answer tells what was and what is."""
    scripts.put("t")
    steps = [
        ("draining", "true", None, True),
        ("switch", '"off"', "off", True),
        ("draining", "false", "off", False),
        ("switch", '"on"', "on", False),
    ]
    last = None
    for part, value, switch, draining in steps:
        known, before, after = scripts.say("t", part, value)
        assert (known, before) == (1, last)
        assert (after["switch"], after["draining"]) == (switch, draining)
        assert after == scripts.said("t")
        last = after


@pytest.mark.parametrize(
    ("part", "value", "again"),
    [("switch", '"off"', 1), ("switch", '"on"', 1), ("draining", "true", 1), ("draining", "false", 0)],
)
def test_a_word_said_twice_changes_nothing(scripts: Scripts, part: str, value: str, again: int) -> None:
    """Neither time nor speaker, no version, no event; and a tool that is not draining need not be undrained."""
    scripts.put("t")
    events = len(scripts.audited())
    first = scripts.say("t", part, value, by="first")
    before = scripts.state()
    assert scripts.say("t", part, value, by="second") == [1, first[2], first[2]]
    assert scripts.state() == before
    assert len(scripts.audited()) == events + again


def test_a_tool_that_is_not_there_has_no_state(scripts: Scripts) -> None:
    """Nothing is written for a typing error."""
    assert scripts.say("nobody", "draining", "true") == [0, None, None]
    assert scripts.state() == {}


def test_of_operators_at_once_nobody_is_overwritten(scripts: Scripts) -> None:
    """One switches while the other drains: both words are kept, and each change is told once."""
    scripts.put("t")
    words = [("switch", '"off"'), ("draining", "true")] * 10
    together = Barrier(len(words))

    def say(word: tuple[str, str]) -> bool:
        together.wait()
        _, before, after = scripts.say("t", *word)
        return bool(before != after)

    with ThreadPoolExecutor(len(words)) as pool:
        assert sum(pool.map(say, words)) == 2
    said = scripts.said("t")
    assert said is not None
    assert (said["switch"], said["draining"]) == ("off", True)
    assert scripts.counter() == 3


@pytest.mark.parametrize("record", ["garbage", "[1", '"text"', "5", ""])
def test_a_record_that_nobody_can_read_is_replaced(scripts: Scripts, record: str) -> None:
    """Or the tool could never be called again."""
    scripts.put("t")
    scripts.client.hset(scripts.keys.registry_states, "t", record)
    keys = scripts.keys
    names = [
        keys.registry_versions,
        keys.registry_states,
        keys.registry_version,
        keys.registry_changes,
        keys.audit,
    ]
    run(scripts.client, "tool_state_put", names, ["t", "switch", '"on"', "me", CHANNEL, "tool_enabled"])
    said = scripts.said("t")
    assert said is not None
    assert (said["switch"], said["draining"]) == ("on", False)


def test_what_another_version_has_added_is_kept(scripts: Scripts) -> None:
    """Processes of two versions run side by side."""
    scripts.put("t")
    scripts.client.hset(
        scripts.keys.registry_states, "t", '{"switch":null,"draining":true,"since":1,"by":"x","note":"n"}'
    )
    scripts.say("t", "switch", '"off"')
    said = scripts.said("t")
    assert said is not None
    assert (said["note"], said["draining"]) == ("n", True)


def test_what_an_operator_said_outlives_a_new_definition(scripts: Scripts) -> None:
    """Registering again neither enables nor undrains; removing and registering begins anew."""
    scripts.put("t")
    scripts.say("t", "switch", '"off"')
    scripts.say("t", "draining", "true")
    said = scripts.said("t")
    scripts.put("t", '{"new": true}')
    assert scripts.said("t") == said
    scripts.remove("t")
    scripts.put("t")
    assert scripts.said("t") is None


# -- the audit --------------------------------------------------------------------------------------------


def test_each_change_is_audited_in_its_step(scripts: Scripts) -> None:
    """What was done, to what, by whom; a refused change is none."""
    scripts.put("t", '{"secret": "hunter2"}')
    scripts.put("t", added="; changed: description")
    scripts.put("t", expected=99)
    scripts.say("t", "draining", "true", by="cli:ann", kind="tool_drained")
    scripts.remove("t", expected=99)
    scripts.remove("t")
    assert scripts.audited() == [
        {"kind": "tool_registered", "actor": "me", "tool": "t", "detail": "version 1"},
        {"kind": "tool_updated", "actor": "me", "tool": "t", "detail": "version 2; changed: description"},
        {"kind": "tool_drained", "actor": "cli:ann", "tool": "t"},
        {"kind": "tool_removed", "actor": "me", "tool": "t", "detail": "version 2"},
    ]
