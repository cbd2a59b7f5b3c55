"""Grades: by what they are given, how long they stand, and which change is news."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.health import (
    GRADES,
    MAX_REASON,
    Health,
    graded,
    health_from_wire,
    health_to_wire,
    observed,
    transition,
)
from common.domain.rules import HealthRules
from common.domain.tool import ToolState

RULES = HealthRules(interval=30, timeout=5, degraded_after=1)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
MOMENTS = st.integers(0, 2**53)
RECORDS = st.builds(
    Health,
    grade=st.sampled_from(GRADES),
    latency_ms=st.none() | st.floats(0, 1e6),
    at=MOMENTS,
    since=MOMENTS,
    reason=TEXT,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
GOOD = {"grade": "degraded", "latency_ms": 1500.0, "at": 20, "since": 10, "reason": "slow"}


# -- grades ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latency", "grade"),
    [
        (None, ToolState.ENABLED),
        (0.0, ToolState.ENABLED),
        (0.999, ToolState.ENABLED),
        (1.0, ToolState.DEGRADED),
        (4.999, ToolState.DEGRADED),
        (5.0, ToolState.UNAVAILABLE),
        (60.0, ToolState.UNAVAILABLE),
    ],
)
def test_the_grade_goes_by_latency(latency: float | None, grade: ToolState) -> None:
    """Each bound belongs to the worse grade; what was not asked (a tool at rest) is enabled."""
    assert graded(latency, RULES)[0] is grade


@pytest.mark.parametrize("latency", [None, 0.1])
def test_an_error_is_worse_than_any_latency(latency: float | None) -> None:
    """And is the reason, word for word."""
    assert graded(latency, RULES, "connection refused") == (ToolState.UNAVAILABLE, "connection refused")


@pytest.mark.parametrize(("latency", "words"), [(1.5, "health_degraded_after"), (5.0, "health_timeout")])
def test_the_reason_names_the_setting(latency: float, words: str) -> None:
    """So that whoever finds it too strict knows what to change; an enabled tool needs no reason."""
    assert words in graded(latency, RULES)[1]
    assert graded(0.1, RULES)[1] == ""


def test_an_operators_word_is_no_grade() -> None:
    """No record can say that a tool is disabled: that is not for a probe to say."""
    with pytest.raises(ValueError, match="operator"):
        Health(grade=ToolState.DISABLED, latency_ms=None, at=1, since=1)


# -- records --------------------------------------------------------------------------------------------


def test_a_record_is_as_old_as_its_grade() -> None:
    """``since`` stays while the grade does, ``at`` is the last probe."""
    first = observed(None, 0.1, RULES, at=100)
    again = observed(first, 0.2, RULES, at=200)
    worse = observed(again, 2.0, RULES, at=300)
    lost = observed(worse, None, RULES, "gone", at=400)
    assert [(record.at, record.since) for record in (first, again, worse, lost)] == [
        (100, 100),
        (200, 100),
        (300, 300),
        (400, 400),
    ]
    assert [record.latency_ms for record in (first, again, worse, lost)] == [100.0, 200.0, 2000.0, None]


def test_silence_has_no_latency() -> None:
    """What is known is only that it took longer than the probe waited."""
    assert observed(None, 5.0, RULES, at=1).latency_ms is None


def test_a_reason_has_an_end() -> None:
    """A backend that dies with a long last word does not fill Redis."""
    record = observed(None, None, RULES, "x" * 100_000, at=1)
    assert len(record.reason) == MAX_REASON
    assert record.reason.endswith("…")
    assert observed(None, None, RULES, "x" * MAX_REASON, at=1).reason == "x" * MAX_REASON


# -- transitions ----------------------------------------------------------------------------------------


def record(grade: ToolState, **fields: Any) -> Health:
    return Health(**{"grade": grade, "latency_ms": None, "at": 1, "since": 1, **fields})


@pytest.mark.parametrize("before", [None, *GRADES])
@pytest.mark.parametrize("after", GRADES)
def test_a_change_of_grade_is_news(before: ToolState | None, after: ToolState) -> None:
    """Nothing else is; a tool without a record passes for enabled."""
    old = None if before is None else record(before, reason="old", latency_ms=3.0)
    found = transition(old, record(after, reason="new", at=2))
    if after is (before or ToolState.ENABLED):
        assert found is None
    else:
        assert found is not None
        assert (found.before, found.after, found.reason) == (before, after, "new")


def test_a_transition_in_words() -> None:
    """From what to what."""
    assert str(transition(record(ToolState.DEGRADED), record(ToolState.ENABLED))) == "degraded -> enabled"
    assert str(transition(None, record(ToolState.UNAVAILABLE))) == "unknown -> unavailable"


@given(st.lists(st.none() | st.floats(0, 10), min_size=1, max_size=30))
def test_news_are_as_many_as_changes(latencies: list[float | None]) -> None:
    """Along any row of probes: one transition where the grade changes, and since then a new ``since``."""
    old, grade, since = None, ToolState.ENABLED, None
    for at, latency in enumerate(latencies):
        new = observed(old, latency, RULES, at=at)
        assert (transition(old, new) is not None) == (new.grade is not grade)
        since = at if since is None or new.grade is not grade else since
        assert (new.at, new.since) == (at, since)
        old, grade = new, new.grade


# -- in Redis -------------------------------------------------------------------------------------------


@given(RECORDS)
def test_a_record_survives_redis(health: Health) -> None:
    """To the last field."""
    assert health_from_wire(orjson.loads(orjson.dumps(health_to_wire(health)))) == health


def test_every_field_is_written() -> None:
    """A field that is forgotten would come back as its default."""
    health = record(ToolState.DEGRADED)
    assert health_to_wire(health).keys() == asdict(health).keys()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"later": 1}, {}),
        ({"latency_ms": None}, {"latency_ms": None}),
        ({"latency_ms": 2}, {"latency_ms": 2.0}),
        ({"reason": "x" * 1000}, {"reason": "x" * MAX_REASON}),
    ],
)
def test_what_another_writer_may_write_is_read(change: dict[str, Any], found: dict[str, Any]) -> None:
    """A newer one has fields more, an other one longer words."""
    health = health_from_wire({**GOOD, **change})
    assert health is not None
    assert health_to_wire(health) == {**GOOD, **found}


@pytest.mark.parametrize("missing", ["latency_ms", "since", "reason"])
def test_a_field_that_an_older_writer_did_not_know(missing: str) -> None:
    """Has a default: it stands since the probe, without latency and reason."""
    health = health_from_wire({name: value for name, value in GOOD.items() if name != missing})
    assert health is not None
    assert health_to_wire(health) == {**GOOD, missing: {"since": 20, "reason": ""}.get(missing)}


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        "enabled",
        {},
        {**GOOD, "grade": "disabled"},
        {**GOOD, "grade": "splendid"},
        {**GOOD, "grade": []},
        {**GOOD, "at": "noon"},
        {**GOOD, "at": None},
        {**GOOD, "at": float("inf")},
        {**GOOD, "since": {}},
        {**GOOD, "latency_ms": "fast"},
        {**GOOD, "latency_ms": []},
    ],
)
def test_what_is_no_record_is_none(wire: object) -> None:
    """It hides no tool and stops no reader; the next probe replaces it."""
    assert health_from_wire(wire) is None


@given(JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, JSON)))
def test_no_json_breaks_the_reader(wire: object) -> None:
    """Whatever stands there."""
    health = health_from_wire(wire)
    assert health is None or health.grade in GRADES
