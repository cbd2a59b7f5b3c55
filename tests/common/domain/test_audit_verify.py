"""What was done to records shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.audit_chain import START, Position, SealedRecord, digest, seal_all
from common.domain.audit_verify import Flaw, Verifier

Records = list[SealedRecord]


def records(count: int = 9, key: bytes = b"", before: Position = START) -> Records:
    return seal_all(
        before, [(f"{number + 1}-0", {"kind": "x", "n": str(number)}) for number in range(count)], key
    )


def verified(found: Records, key: bytes = b"") -> Verifier:
    verifier = Verifier(key)
    for record in found:
        verifier.feed(record)
    return verifier


def flaws(found: Records) -> set[Flaw]:
    return {problem.flaw for problem in verified(found).problems}


def edited(found: Records) -> Records:
    return [*found[:4], replace(found[4], event={"kind": "y"}), *found[5:]]


def edited_with_digest(found: Records) -> Records:
    one = found[4]
    event = {"kind": "y"}
    return [*found[:4], replace(one, event=event, hash=digest(one.seq, one.id, event, one.prev)), *found[5:]]


def renumbered(found: Records) -> Records:
    return [*found[:4], *(replace(record, seq=record.seq - 1) for record in found[5:])]


@pytest.mark.parametrize(
    ("done", "seen"),
    [
        (lambda found: found, set()),
        (edited, {Flaw.EDITED}),
        (edited_with_digest, {Flaw.UNLINKED}),
        (lambda found: [*found[:4], *found[5:]], {Flaw.MISSING}),
        (renumbered, {Flaw.EDITED, Flaw.UNLINKED}),
        (lambda found: [*found[:3], found[4], found[3], *found[5:]], {Flaw.MISSING, Flaw.ORDER}),
        (lambda found: [*found[:5], *found[2:]], {Flaw.ORDER}),
        (lambda found: [*found[:5], found[4], *found[5:]], set()),
        (lambda found: [*found[:5], replace(found[4], event={}), *found[5:]], {Flaw.EDITED, Flaw.ORDER}),
    ],
    ids=[
        "whole",
        "edited",
        "edited with digest",
        "gap",
        "renumbered",
        "swapped",
        "again",
        "repeated",
        "repeated edited",
    ],
)
def test_each_thing_that_can_be_done_to_them_shows(
    done: Callable[[Records], Records], seen: set[Flaw]
) -> None:
    """Only what comes twice just as it was is no flaw."""
    assert flaws(done(records())) == seen


@given(st.integers(0, 8), st.sampled_from(["seq", "id", "event", "prev", "hash"]))
def test_no_part_of_a_record_can_be_changed(index: int, part: str) -> None:
    """Whichever, wherever."""
    found = records()
    changed = {"seq": 99, "id": "99-0", "event": {"kind": "y"}, "prev": "1" * 64, "hash": "1" * 64}
    found[index] = replace(found[index], **{part: changed[part]})  # type: ignore[arg-type]
    assert flaws(found)


def test_a_cut_at_either_end_shows_where_the_ends_are_known() -> None:
    """Of the chain alone it cannot be seen."""
    found = records()
    verifier = verified(found[2:7])
    assert verifier.problems == []
    verifier.begins_at(START)
    verifier.ends_at(found[-1].position)
    assert [(problem.flaw, problem.text) for problem in verifier.problems] == [
        (Flaw.START_CUT, "records 1 to 2 are not there"),
        (Flaw.END_CUT, "records 8 to 9 are not there"),
    ]


def test_ends_that_are_where_they_should_be_are_none() -> None:
    """A file may be further than what was known when it was asked."""
    found = records()
    verifier = verified(found[2:])
    verifier.begins_at(found[1].position)
    verifier.ends_at(found[-1].position)
    verifier.ends_at(found[5].position)
    assert verifier.problems == []


def test_another_chain_does_not_fit_the_known_ends() -> None:
    """All of it was written anew."""
    found, other = records(), records(key=b"other")
    verifier = verified(other, b"other")
    verifier.begins_at(Position("0-0", 0, "1" * 64))
    verifier.ends_at(found[-1].position)
    assert [problem.flaw for problem in verifier.problems] == [Flaw.UNLINKED, Flaw.UNLINKED]


def test_without_the_key_nobody_makes_a_chain() -> None:
    """Who may write files can compute digests, but not these."""
    forged = records()
    assert {problem.flaw for problem in verified(forged, b"key").problems} == {Flaw.EDITED}
    assert verified(records(key=b"key"), b"key").problems == []


def test_problems_are_counted_beyond_what_is_kept() -> None:
    """A file of any size is verified in little memory."""
    verifier = verified([replace(record, event={}) for record in records(1500)])
    assert verifier.found == 1500
    assert len(verifier.problems) == 1000
