"""README's table of what works says what tests prove, and nothing else."""

from __future__ import annotations

from tests.docs.features import BEGIN, END, README, Row, missing, render, rows


def test_the_table_is_what_the_generator_makes() -> None:
    """``python -m tests.docs.features`` brings it up to date."""
    found = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert found == render()


def test_every_row_has_its_tests() -> None:
    """Each names at least one, and all are there."""
    found = list(rows())
    assert found
    for row in found:
        assert row.tests, row.what
        assert not missing(row), row.what


def test_a_test_that_is_gone_is_missed() -> None:
    """Neither its name nor its file is enough."""
    here = "tests/docs/test_features.py"
    row = Row(
        group="", what="", tests=(f"{here}::test_gone", "tests/docs/gone.py::test_x", f"{here}::missing")
    )
    assert missing(row) == list(row.tests)
