"""``canalgate doctor`` says whether the keys of payloads are good, and open what lies in Redis."""

from __future__ import annotations

from typing import Any

import pytest

from common.calls.dead_letters import LETTER
from common.domain.ids import ToolId
from common.registry.registry import Registry
from common.settings import Settings
from common.store.client import Client
from common.store.key_ring import keys_of
from common.store.keys import Keys
from gateway_web.cli.doctor_encryption import payload_findings, ring_findings
from tests.support.backends import stdio_tool
from tests.support.egress import ANYTHING

OLD = {"id": "old", "secret": "dGhlIG9sZCBzZWNyZXQgb2YgdGhpcyB0ZXN0MTIzNA=="}
NEW = {"id": "new", "secret": "YW5vdGhlciBzZWNyZXQgb2YgdGhpcyB0ZXN0NTY3OA=="}
OTHER = {"id": "old", "secret": "c29tZWJvZHkgZWxzZSdzIHNlY3JldCwgYWx0b2dldGhlcg=="}


def settings(*ring: dict[str, str], **redis: Any) -> Settings:
    return Settings.model_validate({"redis": {"encryption_keys": list(ring), "key_prefix": "test", **redis}})


def ring(*keys: dict[str, str], **redis: Any) -> list[tuple[bool, str]]:
    return [(found.good, found.text) for found in ring_findings(settings(*keys, **redis).redis)]


@pytest.fixture
def registered(client: Client) -> Client:
    """A Redis with a tool that was registered under the old key, and a dead letter."""
    keys = keys_of(settings(OLD).redis)
    Registry(client, keys, ANYTHING).put(stdio_tool(id=ToolId("a")))
    client.xadd(keys.dead_letters, {"message": keys.sealed(b"{}", LETTER, "tool.a"), "queue": "tool.a"})
    return client


def seen(client: Client, *keys: dict[str, str], **redis: Any) -> list[tuple[bool, str]]:
    found: Keys = keys_of(settings(*keys, **redis).redis)
    return [(finding.good, finding.text) for finding in payload_findings(client, found)]


def test_a_ring_is_told(client: Client) -> None:
    """Who seals, and who opens; never a secret."""
    assert ring(NEW, OLD) == [(True, "encryption keys: new seals, and these open as well: old")]
    assert ring() == []
    assert ring(url="redis://h/0") == [
        (True, "payloads lie in Redis in the clear: redis.encryption_keys is not set")
    ]
    assert "redis.accept_plain" in ring(NEW, accept_plain=True)[1][1]


def test_a_secret_that_can_be_guessed_or_was_there_before_is_bad() -> None:
    """The first is none; the second was not changed."""
    (bad, _) = ring({"id": "a", "secret": "a1" * 20})
    assert not bad[0]
    assert "can be guessed" in bad[1]
    assert "a1a1" not in bad[1]
    (bad, _) = ring(NEW, {**NEW, "id": "b"})
    assert bad == (False, "encryption key b: has the secret of new: a new key needs a new secret")


def test_keys_that_open_everything_are_good(registered: Client) -> None:
    """Tools and dead letters were looked at."""
    assert seen(registered, OLD) == [(True, "payloads in Redis: 2 were looked at, all of them can be opened")]


def test_an_older_key_that_is_still_needed_is_named(registered: Client) -> None:
    """With what was sealed with it, and how that ends."""
    (older, all_of_them) = seen(registered, NEW, OLD)
    assert older[0]
    assert older[1].startswith(
        "payloads in Redis: tool a and 1 more: sealed with the key old, which must stay"
    )
    assert all_of_them[0]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ([NEW], "sealed with the key 'old', which is not one of this process's (new)"),
        ([OTHER], "does not open with the key 'old'"),
        ([], "this process has no redis.encryption_keys"),
    ],
)
def test_keys_that_do_not_open_what_is_there_are_bad(
    registered: Client, keys: list[dict[str, str]], words: str
) -> None:
    """The previous key was dropped too early, is another one, or there is none at all."""
    ((good, text),) = seen(registered, *keys)
    assert not good
    assert "tool a and 1 more" in text
    assert words in text


def test_what_lies_in_the_clear_is_told(client: Client) -> None:
    """It is unreadable with keys alone, and taken with ``accept_plain``."""
    Registry(client, keys_of(settings().redis), ANYTHING).put(stdio_tool(id=ToolId("a")))
    ((good, text),) = seen(client, NEW)
    assert not good
    assert "was not sealed" in text
    (clear, _) = seen(client, NEW, accept_plain=True)
    assert clear[0]
    assert "tool a: in the clear" in clear[1]
    assert seen(client) == []
