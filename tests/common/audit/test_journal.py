"""The audit journal on a real Redis: what is written is read, bounded, in the order of Redis' clock."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common import store
from common.audit.journal import PAGE, Journal, LookBack, audit_command
from common.domain.audit import AuditEvent, AuditRecord, EventKind
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


def test_nobody_who_writes_trims(keys: Keys) -> None:
    """What a sink has not got must stay; the keeper alone knows what that is."""
    assert audit_command(keys, event("1"))[:3] == ("XADD", keys.audit, "*")
    writing = re.compile(r"XADD', (?:prefix \.\. 'audit'|KEYS\[\d\]), 'MAXLEN'")
    for file in (Path(store.__file__).parent / "lua").rglob("*.lua"):
        if file.name != "dead_letter.lua":
            assert not writing.search(
                file.read_text(encoding="utf-8").replace("KEYS[1], 'MAXLEN', ARGV[5]", "")
            ), file


def test_the_newest_are_chosen_over_pages(journal: Journal, client: Client, keys: Keys) -> None:
    """What is wanted may stand far behind; what is older than asked for is not looked at."""
    old = journal.record(event("wanted"))
    with client.pipeline(transaction=False) as pipe:
        for _ in range(PAGE + 10):
            pipe.execute_command(*audit_command(keys, event("x")))
        pipe.execute()
    new = journal.record(event("wanted"))

    def wanted(record: AuditRecord) -> bool:
        return record.fields["session"] == "wanted"

    assert [record.id for record in journal.newest(5, chosen=wanted)] == [new, old]
    assert [record.id for record in journal.newest(1, chosen=wanted)] == [new]
    assert [record.id for record in journal.newest(5, chosen=wanted, since=_ms(old) + 10**6)] == []


def test_a_look_back_reads_no_more_than_it_may(journal: Journal, client: Client, keys: Keys) -> None:
    """It tells behind which record to look on, be it that nothing was found; looked on, each is found once."""
    old = [journal.record(event("wanted")) for _ in range(2)]
    with client.pipeline(transaction=False) as pipe:
        for _ in range(3 * PAGE):
            pipe.execute_command(*audit_command(keys, event("x")))
        pipe.execute()

    def look(before: str | None, most: int = 1) -> LookBack:
        return journal.look_back(
            most,
            before=before,
            most_read=2 * PAGE,
            chosen=lambda record: record.fields["session"] == "wanted",
        )

    nothing = look(None)
    assert nothing.records == []
    assert nothing.further is not None
    first = look(nothing.further)
    assert [record.id for record in first.records] == [old[1]]
    second = look(first.further)
    assert ([record.id for record in second.records], second.further) == ([old[0]], None)
    assert [record.id for record in look(nothing.further, most=2).records] == old[::-1]


def test_a_subscriber_hears_everything_in_order(journal: Journal) -> None:
    """What was there behind its place, and what comes while it listens; only what it chose."""
    before = journal.record(event("0"))
    journal.record(event("1"))
    heard: list[str] = []

    def wanted(record: AuditRecord) -> bool:
        return record.fields["session"] != "2"

    for record in journal.subscribe(before, chosen=wanted):
        heard.append(record.fields["session"])
        if heard == ["1"]:
            journal.record(event("2"))
            journal.record(event("3"))
        if len(heard) == 2:
            break
    assert heard == ["1", "3"]


def test_a_subscriber_who_is_not_wanted_ends(journal: Journal) -> None:
    """It is asked while nothing comes."""
    turns = iter([True, False])
    assert list(journal.subscribe(wanted=lambda: next(turns))) == []


def _ms(name: str) -> int:
    return int(name.partition("-")[0])


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
