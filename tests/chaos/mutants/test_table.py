"""The table of planted faults is true to the files, and its judge tells a caught one from any other end."""

from __future__ import annotations

import ast
from contextlib import suppress
from pathlib import Path

import pytest

from tests.chaos.mutants.table import MUTANTS, Edit, Mutant
from tests.chaos.mutants.trial import (
    ROOT,
    WITNESS,
    Case,
    Run,
    Verdict,
    cases_in,
    judge,
    judge_control,
    planted,
)

every = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
TEST = "tests/a/test_b.py::TestC::test_d"


def functions_of(file: Path) -> set[str]:
    """The tests of a module, as pytest names them without their cases."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            inner = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            found.update(f"{node.name}::{part.name}" for part in inner)
    return found


def test_there_are_enough_of_them() -> None:
    """Fifteen at least, each under a name of its own."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15


@every
def test_each_can_be_planted(mutant: Mutant) -> None:
    """What it replaces stands exactly once in its file, and is not what replaces it."""
    assert mutant.edits
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text(encoding="utf-8").count(edit.old) == 1, edit.file
        assert edit.old != edit.new


@every
def test_each_names_tests_that_exist(mutant: Mutant) -> None:
    """Beside the code, not among the long ones."""
    assert mutant.tests
    for test in (WITNESS, *mutant.tests):
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions_of(ROOT / file), test


@pytest.mark.parametrize("text", ["", "x", "old old"], ids=["empty", "absent", "twice"])
def test_a_text_that_does_not_stand_there_once_is_not_replaced(text: str, tmp_path: Path) -> None:
    """The error names the file, which stays as it is, as does what was changed before it."""
    (tmp_path / "good").write_text("the old")
    (tmp_path / "bad").write_text(text)
    edits = [Edit("good", "old", "new"), Edit("bad", "old", "new")]
    with pytest.raises(ValueError, match="bad: stands there"), planted(edits, tmp_path):
        raise AssertionError("never begun")
    assert [(tmp_path / name).read_text() for name in ("good", "bad")] == ["the old", text]


def test_a_mutant_is_taken_back(tmp_path: Path) -> None:
    """Text and time of change, whatever happened meanwhile."""
    path = tmp_path / "file"
    path.write_text("the old")
    before = path.stat().st_mtime_ns
    with suppress(KeyError), planted([Edit("file", "old", "new")], tmp_path):
        assert path.read_text() == "the new"
        raise KeyError
    assert path.read_text() == "the old"
    assert path.stat().st_mtime_ns == before


def ended(*cases: Case, status: int | None = 1) -> Run:
    return Run(status, (Case(WITNESS), *cases), "")


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        (ended(Case(TEST, "AssertionError: assert 1 == 2")), Verdict.CAUGHT),
        (ended(Case(TEST, "assert 1 == 2"), Case(TEST + "[x]")), Verdict.CAUGHT),
        (ended(Case(TEST + "[x]"), Case(TEST + "[y]", "Failed: DID NOT RAISE <class 'X'>")), Verdict.CAUGHT),
        (ended(Case(TEST, "assert 0", 'failed on teardown with "assert 0"')), Verdict.CAUGHT),
        (ended(Case(TEST), status=0), Verdict.SURVIVED),
        (ended(Case(TEST + "[x]"), Case(TEST + "[y]"), status=0), Verdict.SURVIVED),
        (ended(Case(TEST, "ImportError: no module")), Verdict.BROKEN),
        (ended(Case(TEST, "redis.exceptions.ResponseError: ERR Error compiling script")), Verdict.BROKEN),
        (ended(Case(TEST, None, "collection failure")), Verdict.BROKEN),
        (ended(Case(TEST, None, 'failed on setup with "x"')), Verdict.BROKEN),
        (ended(Case(TEST, None, 'failed on teardown with "assert 0"')), Verdict.BROKEN),
        (ended(Case(TEST, "Failed: Timeout (>60.0s) from pytest-timeout.")), Verdict.BROKEN),
        (ended(status=1), Verdict.BROKEN),
        (ended(Case(TEST, "assert 0"), status=2), Verdict.BROKEN),
        (ended(Case(TEST, "assert 0"), status=None), Verdict.BROKEN),
        (Run(1, (Case(TEST, "assert 0"),), ""), Verdict.BROKEN),
        (Run(1, (Case(WITNESS, "assert 0"), Case(TEST, "assert 0")), ""), Verdict.BROKEN),
    ],
)
def test_only_a_failure_of_the_test_itself_counts(run: Run, verdict: Verdict) -> None:
    """Not a program that cannot be read, a fixture that fails, or a copy that was not what was tested."""
    assert judge(run, [TEST])[0] is verdict


def test_the_control_has_to_pass_whole() -> None:
    """Every test, in every case."""
    assert judge_control(ended(Case(TEST), status=0), [TEST]) == ""
    assert "assert 0" in judge_control(ended(Case(TEST), Case(TEST + "[x]", "assert 0")), [TEST])
    assert "not run" in judge_control(ended(status=0), [TEST])


def test_pytests_report_is_read() -> None:
    """Names as in the table; what failed and then left something behind is one case."""
    junit = """<testsuites><testsuite>
      <testcase classname="tests.a.test_b.TestC" name="test_d"><failure message="assert 1">x</failure></testcase>
      <testcase classname="tests.a.test_b.TestC" name="test_d"><error message="failed on teardown">x</error></testcase>
      <testcase classname="tests.a.test_b" name="test_e[1-x]" /></testsuite></testsuites>"""
    assert cases_in(junit) == (
        Case(TEST, "assert 1", "failed on teardown"),
        Case("tests/a/test_b.py::test_e[1-x]"),
    )
