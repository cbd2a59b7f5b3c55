"""How a scenario is judged decides whether ``make conformance`` can be believed."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from tests.conformance.suite import (
    CLIENT_LEGS,
    HERE,
    LEGS,
    SCORES,
    SUMMARY_LINE,
    Finding,
    Leg,
    RevisionReport,
    ScenarioResult,
    expected_failures,
    judge,
)
from tests.interop import install


@pytest.mark.parametrize(
    ("listed", "complaints", "skipped", "outcome"),
    [
        ([], {}, False, "pass"),
        ([], {}, True, "SKIPPED"),
        ([], {"a": "broken"}, False, "FAIL"),
        (["ping"], {"a": "broken"}, False, "expected"),
        (["ping:a"], {"a": "broken"}, False, "expected"),
        (["ping:a"], {"a": "broken", "b": "broken"}, False, "FAIL"),
        (["ping:a", "ping:b"], {"a": "broken"}, False, "FAIL"),
        (["ping"], {}, False, "STALE"),
        (["ping:a"], {}, False, "STALE"),
        (["pong"], {"a": "broken"}, False, "FAIL"),
    ],
)
def test_outcome_of_a_scenario(
    listed: list[str], complaints: dict[str, str], skipped: bool, outcome: str
) -> None:
    """Only a failure that is listed exactly is expected; a listed pass is stale; a skip is no pass."""
    finding = Finding(name="ping", passed=1, complaints=complaints, skipped=skipped)
    assert judge(finding, scored=True, listed=frozenset(listed)).outcome == outcome


@pytest.mark.parametrize("leg", [*LEGS, *CLIENT_LEGS], ids=lambda leg: leg.name)
def test_expected_failures_file_can_be_read(leg: Leg) -> None:
    """Each leg has its file, and its entries are scenario names without blanks."""
    entries = expected_failures(leg.expected, leg.section)
    assert not [entry for entry in entries if " " in entry]
    allowed = {"server": ("tasks-",), "client": ("auth/",)}
    assert all(entry.startswith(allowed[leg.section]) for entry in entries)


@pytest.mark.parametrize(
    ("line", "failed"),
    [("✓ ping: 2 passed, 0 failed", "0"), ("✗ request-metadata: 2 passed, 2 failed, 1 warnings", "2")],
)
def test_every_line_of_the_summary_is_read(line: str, failed: str) -> None:
    """A scenario whose line is passed over would count for nothing."""
    (found,) = SUMMARY_LINE.finditer(f"SUMMARY\n{line}\n")
    assert found["failed"] == failed


def test_the_scores_are_those_of_every_leg() -> None:
    """README shows them; they are written by a whole run of this suite in which all went as expected."""
    told = orjson.loads(SCORES.read_bytes())
    wanted = orjson.loads((HERE / "package.json").read_bytes())["dependencies"]
    assert told["suite"] == wanted["@modelcontextprotocol/conformance"]
    assert list(told["scores"]) == [leg.name for leg in (*LEGS, *CLIENT_LEGS)]
    for score in told["scores"].values():
        passed, _, counted = score.split(" ")[0].partition("/")
        assert passed == counted or "failing: " in score


def test_a_score_counts_what_fails_and_not_what_is_not_offered() -> None:
    """A failure that is known of is a failure; what is about OAuth, tasks or skills is left out, and told of.

    A scenario of which only checks were left out that do not apply has passed.
    """
    outcomes = {"ping": ("pass", 0), "pong": ("expected", 1), "pang": ("expected", 0)}
    outcomes |= {"auth/a": ("expected", 1), "tasks-b": ("expected", 1)}
    scenarios = [
        ScenarioResult(name=name, scored=True, outcome=outcome, passed=1, failed=failed)
        for name, (outcome, failed) in outcomes.items()
    ]
    report = RevisionReport(revision="r", seconds=1.0, suite_exit=0, scenarios=scenarios)
    assert report.told == "2/3 (failing: pong; not counted: 1 about OAuth; not counted: 1 about tasks)"


@pytest.mark.parametrize("directory", [HERE, install.HERE])
def test_lock_file_names_no_download_host(directory: Path) -> None:
    """Packages come from whatever registry the machine is set up for, pinned by their digests."""
    text = (directory / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in text
    assert '"integrity": "sha512-' in text
