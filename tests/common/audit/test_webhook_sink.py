"""The webhook sink: what was answered with 2xx is safe; everything else comes again, in its order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.audit import delivery
from common.audit.sinks.webhook import (
    FIRST,
    LAST,
    SIGNATURE,
    TIMESTAMP,
    WebhookRefused,
    WebhookSink,
    signature,
)
from common.domain.egress import EgressRules
from common.domain.errors import ConfigurationError
from common.settings.audit_sinks import WebhookOptions
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from tests.common.audit.chains import keeper_of, kept, records, write_events
from tests.support.certificates import Authority, server_context
from tests.support.wait import wait_until
from tests.support.webhook_receiver import Receiver, webhook_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as found:
        yield found


def sink(receiver: Receiver, **options: Any) -> WebhookSink:
    return WebhookSink(WebhookOptions(url=receiver.url, **options))  # type: ignore[arg-type]


def test_what_was_taken_is_safe_and_each_request_says_what_it_holds(receiver: Receiver) -> None:
    """With a signature over time and body, by which nobody else's is taken for the gateway's."""
    hook = sink(receiver, secret="s", token="t")
    given = records(5)
    assert hook.write(given[:3]) == 3
    assert hook.write([]) == 3
    assert hook.write(given) == 5
    assert receiver.taken == given
    (first, body), (second, _) = receiver.requests
    assert (first[FIRST], first[LAST], second[FIRST], second[LAST]) == ("1", "3", "4", "5")
    assert first[SIGNATURE] == signature(b"s", first[TIMESTAMP], body)
    assert first["Authorization"] == "Bearer t"
    assert first["Content-Type"] == "application/x-ndjson"
    hook.close()


@pytest.mark.parametrize("status", [301, 400, 401, 429, 500, 503])
def test_what_is_not_2xx_was_not_taken(receiver: Receiver, status: int) -> None:
    """A redirect is not followed: it would lead the records elsewhere."""
    hook = sink(receiver)
    receiver.answers.append(status)
    with pytest.raises(WebhookRefused, match=str(status)):
        hook.write(records(2))
    assert hook.write([]) == 0
    assert hook.write(records(2)) == 2
    hook.close()


@pytest.mark.parametrize("fault", ["hang", "close", "half"])
def test_an_answer_that_does_not_come_whole_is_none(receiver: Receiver, fault: str) -> None:
    """The receiver may have taken it: it sees by the numbers that they come again."""
    hook = sink(receiver, timeout=0.3)
    receiver.answers.append(fault)
    with pytest.raises(httpx.TransportError):
        hook.write(records(2))
    assert hook.write(records(2)) == 2
    assert receiver.numbers == [1, 2]
    assert receiver.doubled == (2 if fault == "half" else 0)
    hook.close()


def test_no_request_is_larger_than_it_may_be(receiver: Receiver) -> None:
    """And a receiver that takes less is given less."""
    hook = sink(receiver, max_bytes=4096)
    receiver.most = 2000
    given = records(60)
    for _ in range(3):
        try:
            hook.write(given)
        except WebhookRefused:
            continue
    assert receiver.taken == given
    assert all(len(body) <= 4096 for _, body in receiver.requests)
    hook.close()


def test_what_was_taken_before_a_failure_is_not_sent_again(receiver: Receiver) -> None:
    """A batch that went in several requests goes on behind the last one that was taken."""
    hook = sink(receiver, max_bytes=2048)
    receiver.answers.extend([204, 500])
    with pytest.raises(WebhookRefused):
        hook.write(records(30))
    assert hook.write(records(30)) == 30
    assert (receiver.numbers, receiver.doubled) == (list(range(1, 31)), 0)
    hook.close()


def test_it_connects_only_where_it_may(receiver: Receiver) -> None:
    """The operator's own file names the place, so it may be this machine; what is denied is denied to it too."""
    hook = WebhookSink(WebhookOptions(url=receiver.url), EgressRules(denied_hosts=("127.0.0.1",)))  # type: ignore[arg-type]
    with pytest.raises(httpx.ConnectError, match="egress"):
        hook.write(records(1))
    assert receiver.requests == []
    hook.close()


def test_the_other_end_is_proved(tmp_path: Path) -> None:
    """By the authority that the options name, and no other."""
    authority = Authority(tmp_path)
    with webhook_receiver(server_context(authority.issue("localhost", "127.0.0.1"))) as receiver:
        hook = sink(receiver, tls_ca_file=str(authority.file))
        assert hook.write(records(1)) == 1
        hook.close()
        stranger = sink(receiver)
        with pytest.raises(httpx.ConnectError):
            stranger.write(records(2))
        stranger.close()
    with pytest.raises(ConfigurationError, match=r"nowhere\.pem"):
        WebhookSink(WebhookOptions(url="https://x", tls_ca_file="nowhere.pem"))  # type: ignore[arg-type]


def test_a_receiver_with_all_faults_loses_nothing(
    client: Client, keys: Keys, address: StoreAddress, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a keeper: in order, and what comes twice is known by its number."""
    monkeypatch.setattr(delivery, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(delivery, "RETRY_MAX", 0.1)
    receiver.answers.extend([500, "close", 204, 413, "hang", "half", 204, 503, "close", 400, "half"])
    hook = sink(receiver, timeout=0.3, max_bytes=20_000)
    with kept(keeper_of(address, keys, {"hook": hook})):
        write_events(client, keys, 1500)
        wait_until(lambda: len(receiver.taken) == 1500, description="all of them")
    assert receiver.numbers == list(range(1, 1501))
    assert receiver.doubled > 0
    assert all(
        after.prev == before.hash for before, after in zip(receiver.taken, receiver.taken[1:], strict=False)
    )
