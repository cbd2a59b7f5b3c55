"""A record that its node knows nothing of, after a restart of Redis: what becomes of the call."""

from __future__ import annotations

import pytest

from common.domain.ids import InvocationId
from common.domain.rules import Retry
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.common.store.delivery import (
    A,
    B,
    fetch,
    ids,
    live,
    put,
    recorded,
    require_nothing_left,
    result,
    under_way,
    waiting,
)
from tests.support.messages import QUEUE, head


def stray(client: Client, keys: Keys, *, maybe_sent: bool, attempts: int = 3, tag: str = "1") -> str:
    """What becomes of what the node ``A`` has under this tag."""
    args: list[str | int] = [keys.begin, A, tag, int(maybe_sent), attempts]
    fate: bytes = run(client, "call_stray", [keys.unacked(A)], args)
    return fate.decode()


@pytest.fixture
def taken(client: Client, keys: Keys) -> None:
    """A call that the node ``A`` has taken."""
    live(client, keys, A)
    put(client, head("1"))
    fetch(client, keys, A)
    client.hset(keys.unsent(A), "1", 1)
    client.expire(keys.unsent(A), 60)


@pytest.mark.usefixtures("taken")
class TestStray:
    """One call, with and without traces of it elsewhere."""

    @pytest.mark.parametrize("maybe_sent", [True, False])
    def test_one_that_has_its_end_is_let_go(self, client: Client, keys: Keys, maybe_sent: bool) -> None:
        """The result stays, and what it held is given back; once."""
        client.set(keys.result(InvocationId("1")), "good", ex=60)
        assert stray(client, keys, maybe_sent=maybe_sent) == "ended"
        assert stray(client, keys, maybe_sent=maybe_sent) == "gone"
        assert (result(client, keys, "1"), client.llen(QUEUE)) == (b"good", 0)
        require_nothing_left(client, keys)
        assert client.exists(keys.unsent(A)) == 0

    @pytest.mark.parametrize("maybe_sent", [True, False])
    def test_one_that_another_node_declared_begun_is_left_to_it(
        self, client: Client, keys: Keys, maybe_sent: bool
    ) -> None:
        """It went back and was taken there, and Redis forgot both: it must not run again."""
        client.set(keys.began(InvocationId("1")), B, ex=60)
        assert stray(client, keys, maybe_sent=maybe_sent) == "ended"
        assert client.llen(QUEUE) == 0
        assert client.get(keys.began(InvocationId("1"))) == B.encode()
        require_nothing_left(client, keys)

    def test_one_that_was_surely_not_sent_goes_back(self, client: Client, keys: Keys) -> None:
        """That was no attempt."""
        assert stray(client, keys, maybe_sent=False) == "returned"
        require_nothing_left(client, keys)
        assert fetch(client, keys, A, tag=2)[1][0][:2] == ("2", "1")
        assert recorded(client, keys, A, 2).attempt == 0

    @pytest.mark.parametrize("declared", [True, False])
    def test_one_that_may_have_been_sent_is_lost(self, client: Client, keys: Keys, declared: bool) -> None:
        """Nothing is changed: it has to be answered. What the node has declared begun was begun, whoever doubts it."""
        if declared:
            client.set(keys.began(InvocationId("1")), A, ex=60)
        assert stray(client, keys, maybe_sent=not declared) == "lost"
        assert recorded(client, keys, A, 1).id == "1"
        assert under_way(client, keys) == {A: 1}


def test_one_with_leave_goes_back_so_often_as_it_may(client: Client, keys: Keys) -> None:
    """As from a node that died; its declaration does not hold it up."""
    live(client, keys, A)
    put(client, head("1", leave=Retry.SAFE))
    for tag, fate in ((1, "returned"), (2, "returned"), (3, "lost")):
        fetch(client, keys, A, tag=tag)
        client.set(keys.began(InvocationId("1")), A, ex=60)
        assert stray(client, keys, maybe_sent=True, attempts=2, tag=str(tag)) == fate
    assert recorded(client, keys, A, 3).attempt == 2


def test_one_of_a_pool_chooses_its_session_again(client: Client, keys: Keys) -> None:
    """It is counted there no more."""
    live(client, keys, A)
    put(client, head("1", session="*", pool_size=2))
    fetch(client, keys, A)
    assert stray(client, keys, maybe_sent=False) == "returned"
    require_nothing_left(client, keys)
    assert [(one.id, one.session) for one in waiting(client)] == [("1", "*")]


def test_they_keep_their_order(client: Client, keys: Keys) -> None:
    """The newest is put back first, so that the oldest stands in front."""
    live(client, keys, A)
    put(client, head("1"), head("2"), head("3"))
    fetch(client, keys, A, most=2)
    for tag in ("2", "1"):
        assert stray(client, keys, maybe_sent=False, tag=tag) == "returned"
    assert ids(waiting(client)) == ["1", "2", "3"]


def test_a_message_without_a_head_is_none_of_it(client: Client, keys: Keys) -> None:
    """It stays recorded."""
    client.hset(keys.unacked(A), "1", "{}")
    client.expire(keys.unacked(A), 60)
    assert stray(client, keys, maybe_sent=False) == "gone"
    assert client.hget(keys.unacked(A), "1") == b"{}"
