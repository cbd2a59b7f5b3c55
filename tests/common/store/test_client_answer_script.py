"""A client's answer finds the worker that waits for it, and only from whom was asked."""

from __future__ import annotations

from redis import Redis

from common.domain.ids import NodeId
from common.store.keys import Keys
from common.store.scripts import run

KEYS = Keys("t")
NODE = NodeId("w@h")


def give(client: Redis, who: str, name: str = "q", answer: str = "{}") -> int:
    """Run the script."""
    keys = [KEYS.server_request(name), KEYS.client_answer(name)]
    return int(run(client, "client_answer", keys, [who, answer, 5000, name]))


def asked(client: Redis, who: str, name: str = "q") -> None:
    """What a worker records."""
    client.set(KEYS.server_request(name), f"{who}\n{KEYS.answer_channel(NODE)}", ex=60)


def test_who_was_asked_can_answer(client: Redis) -> None:
    """The answer lies there for a while, and the worker is called."""
    asked(client, "session:s")
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(KEYS.answer_channel(NODE))
        assert heard.get_message(timeout=1) is None
        assert give(client, "session:s", answer="[1]") == 1
        message = heard.get_message(timeout=5)
        assert message is not None
        assert message["data"] == b"q"
    assert client.get(KEYS.client_answer("q")) == b"[1]"
    assert 0 < client.pttl(KEYS.client_answer("q")) <= 5000


def test_nobody_else_can(client: Redis) -> None:
    """A stranger's answer leaves no trace; nor does one to what nobody asked."""
    asked(client, "session:s")
    for who in ("session:t", "principal:s", "", "session:s\n"):
        assert give(client, who) == 0
    assert give(client, "session:s", name="other") == 0
    assert not client.exists(KEYS.client_answer("q"), KEYS.client_answer("other"))
