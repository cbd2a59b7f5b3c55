"""The chain over the journal's records is a function of what stands there, and of nothing else."""

from __future__ import annotations

import hashlib
import hmac

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.audit_chain import NOTHING, START, Position, SealedRecord, position_of, seal, seal_all
from common.domain.errors import InvalidRequest

FIELDS = st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4)
ENTRIES = st.lists(FIELDS, max_size=12).map(
    lambda all_: [(f"{n + 1}-0", fields) for n, fields in enumerate(all_)]
)
KEYS = st.sampled_from([b"", b"k"])


@given(ENTRIES, st.lists(st.integers(0, 12)), KEYS)
def test_whoever_goes_on_finds_the_same(
    entries: list[tuple[str, dict[str, str]]], cuts: list[int], key: bytes
) -> None:
    """A keeper may die behind any record: the next one goes on where the last place is known to be, or before it."""
    whole = seal_all(START, entries, key)
    assert [record.seq for record in whole] == list(range(1, len(entries) + 1))
    for cut in cuts:
        at = min(cut, len(entries))
        place = whole[at - 1].position if at else START
        assert seal_all(position_of(place.text()), entries[at:], key) == whole[at:]


def test_the_digest_is_what_the_document_says() -> None:
    """Anybody can compute it with a few lines of their own."""
    record = seal(START, "5-1", {"kind": "node_lost", "a": "ä"})
    form = NOTHING.encode() + b'[1,"5-1",{"a":"\xc3\xa4","kind":"node_lost"}]'
    assert record.hash == hashlib.sha256(form).hexdigest()
    assert (
        seal(START, "5-1", {"kind": "node_lost", "a": "ä"}, b"k").hash
        == hmac.new(b"k", form, "sha256").hexdigest()
    )


@given(ENTRIES)
def test_a_line_holds_a_record(entries: list[tuple[str, dict[str, str]]]) -> None:
    """All of it, and it is one line."""
    for record in seal_all(START, entries):
        line = record.line()
        assert line.count(b"\n") == 1
        assert SealedRecord.from_line(line) == record


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"5",
        b"nonsense",
        orjson.dumps({"seq": 1, "id": "x", "event": {}, "prev": "", "hash": ""}),
        orjson.dumps({"seq": "1", "id": "1-0", "event": {}, "prev": "", "hash": ""}),
        seal(START, "1-0", {}).line().replace(b"1970", b"1971"),
        seal(START, "1-0", {}).line()[:-2] + b',"more":1}',
    ],
)
def test_what_is_no_record_is_refused(line: bytes) -> None:
    """Also one whose time was edited, which the digest does not hold: it follows from the id."""
    with pytest.raises(InvalidRequest):
        SealedRecord.from_line(line)


def test_a_place_is_kept_as_text() -> None:
    """None is the beginning."""
    place = Position("5-1", 7, "a" * 64)
    assert position_of(place.text().encode()) == place
    assert position_of(None) == START


@pytest.mark.parametrize("text", ["", "1 2-0", "x 1-0 " + "0" * 64, "1 x " + "0" * 64, "1 1-0 00"])
def test_what_is_no_place_is_refused(text: str) -> None:
    """Somebody else wrote there."""
    with pytest.raises(InvalidRequest):
        position_of(text)
