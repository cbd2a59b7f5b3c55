"""The dead letters: one for each message, bounded in number and size, read and dropped by id."""

from __future__ import annotations

import hashlib

import pytest

from common.calls import dead_letters as module
from common.calls.dead_letters import FACT_LENGTH, KEPT_BYTES, DeadLetters, dead_letter_command
from common.domain.errors import InvalidRequest
from common.domain.ids import NodeId
from common.store.client import Client
from common.store.keys import Keys

NODE = NodeId("celery@a:1")
FACTS = {"reason": "not_json", "detail": "it is not JSON", "queue": "tool.a", "node": NODE}


@pytest.fixture
def letters(client: Client, keys: Keys) -> DeadLetters:
    """None yet."""
    return DeadLetters(client, keys)


def record(client: Client, keys: Keys, tag: str, message: bytes) -> None:
    """As a fetch does."""
    client.hset(keys.unacked(NODE), tag, message)
    client.expire(keys.unacked(NODE), 60)


def test_a_message_moves_from_the_record_to_the_letters(
    client: Client, keys: Keys, letters: DeadLetters
) -> None:
    """What the worker knows of it stands beside it."""
    record(client, keys, "7", b"poison")
    record(client, keys, "8", b"another")
    client.execute_command(*dead_letter_command(keys, NODE, FACTS, tag="7"))
    assert client.hgetall(keys.unacked(NODE)) == {b"8": b"another"}
    (letter,) = letters.newest(10)
    assert (letter.reason, letter.detail, letter.queue, letter.node) == tuple(FACTS.values())
    assert (letter.message, letter.size, letter.truncated) == (b"poison", 6, False)
    assert letter.sha1 == hashlib.sha1(b"poison", usedforsecurity=False).hexdigest()
    assert (letter.task, letter.task_id) == ("", "")


def test_sent_twice_it_is_one_letter(client: Client, keys: Keys, letters: DeadLetters) -> None:
    """The answer to the first may have been lost."""
    record(client, keys, "7", b"poison")
    for _ in range(2):
        client.execute_command(*dead_letter_command(keys, NODE, FACTS, tag="7"))
    assert letters.count() == 1


def test_a_message_that_is_recorded_no_more(client: Client, keys: Keys, letters: DeadLetters) -> None:
    """Its bytes come along, whatever they are."""
    message = bytes(range(256))
    client.execute_command(*dead_letter_command(keys, NODE, FACTS, message=message))
    assert letters.newest(1)[0].message == message


def test_a_message_that_was_cut_when_it_was_fetched(client: Client, keys: Keys, letters: DeadLetters) -> None:
    """Size and digest are those of the whole one."""
    record(client, keys, "7", b"\xffoversized 99999999 abcdef0123\nbeginend")
    client.execute_command(*dead_letter_command(keys, NODE, FACTS, tag="7"))
    (letter,) = letters.newest(10)
    assert (letter.message, letter.size, letter.sha1) == (b"beginend", 99999999, "abcdef0123")
    assert letter.truncated


@pytest.mark.parametrize("size", [KEPT_BYTES - 1, KEPT_BYTES, KEPT_BYTES + 1, 10 * KEPT_BYTES])
def test_no_more_is_kept_than_the_bound(size: int, client: Client, keys: Keys, letters: DeadLetters) -> None:
    """Of a larger message the beginning and the end."""
    message = b"<" + b"x" * (size - 2) + b">"
    client.execute_command(*dead_letter_command(keys, NODE, FACTS, message=message))
    (letter,) = letters.newest(10)
    assert letter.size == size
    assert len(letter.message) == min(size, KEPT_BYTES)
    assert letter.truncated is (size > KEPT_BYTES)
    assert (letter.message[:1], letter.message[-1:]) == (b"<", b">")


def test_the_oldest_make_room(
    client: Client, keys: Keys, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly so many are kept, the newest, listed newest first."""
    monkeypatch.setattr(module, "MOST_LETTERS", 5)
    for number in range(8):
        client.execute_command(*dead_letter_command(keys, NODE, FACTS, message=b"%d" % number))
    assert letters.count() == 5
    assert [letter.message for letter in letters.newest(3)] == [b"7", b"6", b"5"]


def test_names_taken_from_a_message_are_bounded(client: Client, keys: Keys, letters: DeadLetters) -> None:
    """A task may be called anything."""
    facts = {**FACTS, "task": "x" * 100_000, "task_id": "ü\x00\n" * 500}
    client.execute_command(*dead_letter_command(keys, NODE, facts, message=b"m"))
    (letter,) = letters.newest(1)
    assert len(letter.task) == len(letter.task_id) == FACT_LENGTH


def test_read_and_dropped_by_id(client: Client, keys: Keys, letters: DeadLetters) -> None:
    """One of them, and not its neighbours."""
    for number in range(3):
        client.execute_command(*dead_letter_command(keys, NODE, FACTS, message=b"%d" % number))
    newest, middle, oldest = letters.newest(10)
    assert letters.get(middle.id) == middle
    assert letters.drop(middle.id, actor="t")
    assert not letters.drop(middle.id, actor="t")
    assert letters.get(middle.id) is None
    assert letters.newest(10) == [newest, oldest]


@pytest.mark.parametrize("wrong", ["", "-", "+", "5", "a-b", "1-0 ", "(1-0", "1-2-3", "9" * 30 + "-0"])
def test_what_is_no_id(wrong: str, letters: DeadLetters) -> None:
    """Redis' own words for ranges are none."""
    with pytest.raises(InvalidRequest, match="looks like"):
        letters.get(wrong)
    with pytest.raises(InvalidRequest, match="looks like"):
        letters.drop(wrong, actor="t")


def test_the_message_is_in_no_repr(client: Client, keys: Keys, letters: DeadLetters) -> None:
    """It may hold arguments."""
    client.execute_command(*dead_letter_command(keys, NODE, FACTS, message=b"a-secret"))
    assert "a-secret" not in repr(letters.newest(1))
