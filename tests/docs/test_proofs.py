"""The section "Proofs" of docs/security.md: each claim names its tests, and they exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.security.test_cves import ROWS as ADVISORIES

ROOT = Path(__file__).resolve().parents[2]
THREATS, _, PROOFS = (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("\n## Proofs\n")
TABLES = [f"S{number}" for number in range(1, 11)]


def rows(text: str, heading: str) -> Iterator[tuple[str, str]]:
    """The first two cells of the tables whose first heading is this one."""
    within = False
    for line in text.splitlines():
        if line.startswith(f"| {heading} |"):
            within = True
        elif line.startswith("|") and within and not line.startswith("|---"):
            first, _, rest = line.removeprefix("| ").removesuffix(" |").partition(" | ")
            yield first, rest
        elif not line.startswith("|"):
            within = False


@cache
def functions_of(file: Path) -> frozenset[str]:
    """The tests of a module, those of its classes as ``TestClass::test``, and the classes."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return frozenset(found)


def proofs() -> dict[str, str]:
    """All rows, of the three tables."""
    headings = ("threat of this page", "table of attacks", "published weakness")
    return dict(row for heading in headings for row in rows(PROOFS, heading))


def test_each_threat_has_its_proof_and_each_proof_its_threat() -> None:
    """By its very words, once: whoever writes a threat down names the tests that show its answer, below "Proofs"."""
    told = [first for first, _ in rows(THREATS, "threat")]
    proven = [first for first, _ in rows(PROOFS, "threat of this page")]
    assert [threat for threat in told if threat not in proven] == []
    assert [threat for threat in proven if threat not in told] == []
    assert len(proven) == len(set(proven))


def test_each_table_of_attacks_and_each_advisory_has_its_proof() -> None:
    """Once each."""
    told = [first.partition(":")[0] for first, _ in rows(PROOFS, "table of attacks")]
    assert told == TABLES
    named = [name for first, _ in rows(PROOFS, "published weakness") for name in first.split(", ")]
    assert sorted(named) == sorted(ADVISORIES)


@pytest.mark.parametrize("claim", sorted(proofs()))
def test_each_named_test_exists(claim: str) -> None:
    """A file, and then the names of tests in it."""
    file, count = ROOT, 0
    for word in re.findall(r"`([^`]+)`", proofs()[claim]):
        if word.endswith(".py"):
            file = ROOT / word
            assert file.is_file(), word
        else:
            assert word in functions_of(file), (file.name, word)
            count += 1
    assert count > 0, "names no test"
