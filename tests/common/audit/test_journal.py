"""The audit journal on a real Redis: what is written is read, bounded, in the order of Redis' clock."""

from __future__ import annotations

import pytest

from common.audit.journal import MOST_EVENTS, Journal, audit_command
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import InvalidRequest, StoreUnavailable
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys


@pytest.fixture
def journal(client: Client, keys: Keys) -> Journal:
    return Journal(client, keys)


def event(session: str, kind: EventKind = EventKind.SESSION_CREATED) -> AuditEvent:
    return AuditEvent(kind=kind, tool="t", tenant="a", client="b", session=session, node="n")


def test_what_is_recorded_is_read_back(journal: Journal, client: Client) -> None:
    """Under the id that was given, at Redis' time, and with what was told and no more."""
    seconds, micros = client.time()
    written = journal.record(event("ä:1"))
    (record,) = journal.newest(5)
    assert (record.id, record.kind) == (written, "session_created")
    assert record.fields == {
        "kind": "session_created",
        "tool": "t",
        "tenant": "a",
        "client": "b",
        "session": "ä:1",
        "node": "n",
    }
    assert 0 <= record.at - (seconds * 1000 + micros // 1000) < 1000


def test_the_newest_come_first(journal: Journal) -> None:
    """As many as are asked for."""
    for number in range(5):
        journal.record(event(str(number)))
    assert [record.fields["session"] for record in journal.newest(3)] == ["4", "3", "2"]
    assert len(journal.newest(100)) == 5


def test_a_command_goes_into_a_pipeline(journal: Journal, client: Client, keys: Keys) -> None:
    """Beside what it tells of."""
    with client.pipeline(transaction=True) as pipe:
        pipe.set("x", 1, px=1000)
        pipe.execute_command(*audit_command(keys, event("1", EventKind.SESSION_CLOSED)))
        pipe.execute()
    assert [record.kind for record in journal.newest(5)] == ["session_closed"]


def test_the_journal_is_bounded_by_the_command_itself(keys: Keys) -> None:
    """Approximately, which costs Redis next to nothing."""
    assert audit_command(keys, event("1"))[:6] == ("XADD", keys.audit, "MAXLEN", "~", MOST_EVENTS, "*")


def test_what_others_wrote_is_shown(journal: Journal, client: Client, keys: Keys) -> None:
    """Words and fields of a newer writer, and bytes that are no text."""
    client.xadd(keys.audit, {"kind": "moon_landing", "crew": b"\xff3"})
    (record,) = journal.newest(1)
    assert record.kind == "moon_landing"
    assert record.fields["crew"] == "\N{REPLACEMENT CHARACTER}3"


@pytest.mark.parametrize("most", [0, -1])
def test_no_number_of_events_is_refused_by_name(journal: Journal, most: int) -> None:
    """Redis would take it for all of them."""
    with pytest.raises(InvalidRequest) as caught:
        journal.newest(most)
    assert caught.value.data == {"field": "most"}


def test_without_redis_it_fails_closed(keys: Keys) -> None:
    """Who writes an event learns that it was not written."""
    client = connect(StoreAddress(url="unix:///nonexistent/redis.sock"))
    journal = Journal(client, keys)
    for asking in (lambda: journal.record(event("1")), lambda: journal.newest(1)):
        with pytest.raises(StoreUnavailable):
            asking()
    client.close()
