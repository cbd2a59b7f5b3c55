"""How a scenario is judged decides whether ``make conformance`` can be believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.suite import HERE, REVISIONS, Finding, expected_failures, judge
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


@pytest.mark.parametrize("revision", REVISIONS)
def test_expected_failures_file_can_be_read(revision: str) -> None:
    """Each revision has its file, and its entries are scenario names without blanks."""
    entries = expected_failures(HERE / f"expected-failures-{revision}.yml")
    assert not [entry for entry in entries if " " in entry]


@pytest.mark.parametrize("directory", [HERE, install.HERE])
def test_lock_file_names_no_download_host(directory: Path) -> None:
    """Packages come from whatever registry the machine is set up for, pinned by their digests."""
    text = (directory / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in text
    assert '"integrity": "sha512-' in text
