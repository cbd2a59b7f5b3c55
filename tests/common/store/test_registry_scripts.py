"""registry_put, registry_remove, refresh_request and capabilities_put, as two writers meet in them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run

ANY = -1
CHANNEL = "test:registry"


class Scripts:
    """The four scripts with their keys filled in."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.client = client
        self.keys = keys

    def put(self, tool: str, definition: str = "{}", expected: int = ANY) -> tuple[int, int]:
        keys = self.keys
        names = [keys.registry_tools, keys.registry_versions, keys.registry_version, keys.registry_changes]
        done, version = run(self.client, "registry_put", names, [tool, definition, expected, CHANNEL])
        return done, version

    def remove(self, tool: str, expected: int = ANY) -> tuple[int, int]:
        keys = self.keys
        names = [
            *(keys.registry_tools, keys.registry_versions, keys.registry_version, keys.registry_changes),
            *(keys.registry_capabilities, keys.registry_refresh),
        ]
        done, version = run(self.client, "registry_remove", names, [tool, expected, CHANNEL])
        return done, version

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
        return {key.decode(): self.client.dump(key) for key in sorted(self.client.keys("test:registry*"))}


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
    """Definition, version, capabilities and wish are gone; the change is on the list."""
    _, version = scripts.put("t")
    scripts.capabilities("t", version, 0)
    scripts.refresh("t")
    done, at = scripts.remove("t")
    keys = scripts.keys
    for name in (
        *(keys.registry_tools, keys.registry_versions, keys.registry_capabilities, keys.registry_refresh),
    ):
        assert scripts.client.hgetall(name) == {}
    assert (done, scripts.client.zscore(keys.registry_changes, "t")) == (1, at)
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
