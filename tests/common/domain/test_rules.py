"""The rules of a tool: what contradicts itself is refused by name, and what another version wrote is read."""

from __future__ import annotations

from dataclasses import asdict, fields
from enum import StrEnum
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import InvalidRequest
from common.domain.rules import (
    MAX_COUNT,
    MAX_SECONDS,
    Affinity,
    CircuitRules,
    HealthRules,
    ProcessLimits,
    Retry,
    Routing,
    check_count,
    check_seconds,
    choice,
    rules_from_wire,
)

RULES = [CircuitRules, HealthRules, ProcessLimits]
WORDS = [(Routing, "routing"), (Affinity, "affinity"), (Retry, "retry")]
NAN, INFINITE = float("nan"), float("inf")


def refused(kind: type[Any], **values: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        kind(**values)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "name", "bad"),
    [
        *((CircuitRules, "failures", value) for value in (0, -1, MAX_COUNT + 1)),
        *((CircuitRules, "probes", value) for value in (0, -1, MAX_COUNT + 1)),
        *((CircuitRules, "open_for", value) for value in (0, -1, MAX_SECONDS + 1, NAN, INFINITE)),
        *((HealthRules, "interval", value) for value in (-1, MAX_SECONDS + 1, NAN, INFINITE)),
        *((HealthRules, "timeout", value) for value in (0, -1, MAX_SECONDS + 1, NAN)),
        *((HealthRules, "degraded_after", value) for value in (0, -1, MAX_SECONDS + 1, NAN)),
        *(
            (ProcessLimits, field.name, value)
            for field in fields(ProcessLimits)
            for value in (0, -1, 1 << 62)
        ),
    ],
)
def test_a_number_out_of_range_is_refused_under_its_key_in_the_file(
    kind: type[Any], name: str, bad: float
) -> None:
    """``failures`` of the circuit is ``circuit_failures`` there, and so on."""
    prefix = {CircuitRules: "circuit", HealthRules: "health", ProcessLimits: "limit"}[kind]
    error = refused(kind, **{name: bad})
    assert error.data == {"field": f"{prefix}_{name}"}
    assert error.message.startswith(f"{prefix}_{name} must be above 0")


def test_probes_that_overlap_are_refused() -> None:
    """The reason says which two settings contradict each other."""
    error = refused(HealthRules, interval=2, timeout=3)
    assert error.data == {"field": "health_timeout"}
    assert "health_timeout (3 s) must not be above health_interval (2 s)" in error.message
    assert HealthRules(interval=3, timeout=3).timeout == 3


@pytest.mark.parametrize("degraded_after", [3, 4])
def test_a_grade_that_nothing_could_have_is_refused(degraded_after: float) -> None:
    """An answer that comes after the timeout is none."""
    error = refused(HealthRules, timeout=3, degraded_after=degraded_after)
    assert error.data == {"field": "health_degraded_after"}
    assert "must be below health_timeout (3 s)" in error.message


def test_a_tool_that_is_not_probed_may_have_any_timeout() -> None:
    """An interval of 0 overlaps nothing."""
    assert HealthRules(interval=0, timeout=60, degraded_after=59).interval == 0


@pytest.mark.parametrize("kind", RULES)
def test_rules_survive_the_wire(kind: type[Any]) -> None:
    """Every field, also when it has not its default."""
    rules = kind(**{name: (value or 6) + 2 for name, value in asdict(kind()).items()})
    assert rules_from_wire(kind, orjson.loads(orjson.dumps(asdict(rules)))) == rules


@pytest.mark.parametrize("kind", RULES)
def test_rules_of_other_versions_are_read(kind: type[Any]) -> None:
    """What an older writer did not know has its default; what a newer one has added is left out."""
    assert rules_from_wire(kind, {}) == kind()
    assert rules_from_wire(kind, {"smell": "of cheese"}) == kind()


@pytest.mark.parametrize(("kind", "field"), WORDS)
def test_a_known_word_is_its_member(kind: type[StrEnum], field: str) -> None:
    """Each of them."""
    assert [choice(kind, member.value, field=field) for member in kind] == list(kind)


@pytest.mark.parametrize(("kind", "field"), WORDS)
@pytest.mark.parametrize("word", ["", "Sticky", "round_robin", "safe ", "x" * 500])
def test_an_unknown_word_is_refused_with_the_words_there_are(
    kind: type[StrEnum], field: str, word: str
) -> None:
    """The message lists them all and repeats no more than a piece of what was given."""
    with pytest.raises(InvalidRequest) as caught:
        choice(kind, word, field=field)
    assert caught.value.data == {"field": field}
    assert all(member.value in caught.value.message for member in kind)
    assert len(caught.value.message) < 150


@given(st.integers(1, MAX_COUNT), st.floats(0, MAX_SECONDS, exclude_min=True))
def test_what_is_in_range_passes(count: int, seconds: float) -> None:
    """From one to a million, and from above 0 to a day."""
    check_count("n", count)
    check_seconds("s", seconds)
