"""One copy of the tree, the tests run in it, and what is to be thought of how they went."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil

from tests.chaos.mutants.table import Edit

ROOT = Path(__file__).resolve().parents[3]
WITNESS = "tests/common/test_imports.py::test_the_tests_test_this_tree"
"""Fails in a process that imports another tree than that of its tests; it is run with all others, and must pass."""
PATIENCE = 300.0
"""Seconds for one run of pytest."""
_REASON = re.compile(r"AssertionError\b|assert\b|Failed: DID NOT RAISE\b")
"""How the failure of a test begins that found something; a program that does not run fails in other words."""
_PLACES = """
import common, gateway_web, gateway_worker, tests
for package in (common, gateway_web, gateway_worker, tests): print(package.__file__)
"""
_PR_SET_CHILD_SUBREAPER = 36


class Verdict(StrEnum):
    """What came of a mutant."""

    CAUGHT = "caught"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"
    """Something else went wrong than what the tests look at: nothing is known."""


@dataclass(frozen=True, slots=True)
class Case:
    """A test, one case of it if it is parametrized; ``failure`` is its message, None if it passed."""

    test: str
    failure: str | None = None
    error: str | None = None
    """What went wrong outside the test itself: in a fixture, at the import."""


@dataclass(frozen=True, slots=True)
class Run:
    """How pytest ended, with which cases, and the end of what it said."""

    status: int | None
    """None: not in time."""
    cases: tuple[Case, ...]
    said: str = field(repr=False)

    def of(self, test: str) -> list[Case]:
        """The cases of a test, or the one that is named."""
        return [case for case in self.cases if case.test == test or case.test.startswith(test + "[")]


def files(root: Path = ROOT) -> list[str]:
    """The files of the working tree, as they are: those of git, and those that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in listed.split("\0") if name and (root / name).is_file()]


def copy_tree(target: Path, root: Path = ROOT) -> None:
    """Copy the working tree."""
    for name in files(root):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)


@contextlib.contextmanager
def planted(edits: Iterable[Edit], tree: Path) -> Iterator[None]:
    """Apply the edits to a tree, for a while. Raises :class:`ValueError` if an old text does not stand there once."""
    before: dict[Path, tuple[str, os.stat_result]] = {}
    try:
        for edit in edits:
            path = tree / edit.file
            text = path.read_text(encoding="utf-8")
            before.setdefault(path, (text, path.stat()))
            if text.count(edit.old) != 1:
                raise ValueError(f"{edit.file}: stands there {text.count(edit.old)} times: {edit.old!r}")
            path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
        yield
    finally:
        for path, (text, stat) in before.items():
            path.write_text(text, encoding="utf-8")
            # As it was, so that what was compiled of the mutant is not taken for it.
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def environment(tree: Path) -> dict[str, str]:
    """Ours, in which the tree comes before whatever is installed, for all processes that are started."""
    dropped = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTEST_", "CHAOS_", "CANALGATE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**kept, "PYTHONPATH": str(tree)}


def require_imports_of(tree: Path) -> None:
    """Raise :class:`RuntimeError` if processes started in :func:`environment`, wherever, import another tree."""
    done = subprocess.run(
        [sys.executable, "-c", _PLACES],
        cwd="/",
        env=environment(tree),
        check=True,
        capture_output=True,
        text=True,
    )
    strangers = [line for line in done.stdout.split() if not Path(line).is_relative_to(tree)]
    if strangers:
        raise RuntimeError(f"imported from elsewhere than {tree}: {strangers}")


def run_tests(tree: Path, tests: Sequence[str]) -> Run:
    """Run tests in a tree, and end whatever they leave behind."""
    report = tree / ".mutant.xml"
    report.unlink(missing_ok=True)
    chosen = [*dict.fromkeys((WITNESS, *tests))]
    options = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *chosen],
        cwd=tree,
        env=environment(tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, status = process.communicate(timeout=PATIENCE)[0], process.returncode
    except subprocess.TimeoutExpired:
        said, status = f"not within {PATIENCE:.0f} s", None
    finally:
        end_descendants()
    return Run(status, cases_in(report.read_text(encoding="utf-8")) if report.is_file() else (), said)


def cases_in(junit: str) -> tuple[Case, ...]:
    """The cases of a JUnit report of pytest's."""
    found: dict[str, Case] = {}
    for element in ET.fromstring(junit).iter("testcase"):  # noqa: S314 - pytest wrote it
        test = _node_id(element.get("classname", ""), element.get("name", ""))
        failure, error = element.find("failure"), element.find("error")
        before = found.get(test, Case(test))
        found[test] = Case(
            test,
            before.failure if failure is None else failure.get("message", ""),
            before.error if error is None else error.get("message", ""),
        )
    return tuple(found.values())


def _node_id(place: str, name: str) -> str:
    """``tests.a.test_b.TestC`` and ``test_d`` -> ``tests/a/test_b.py::TestC::test_d``."""
    module, classes = place.split("."), []
    while module and module[-1][:1].isupper():
        classes.insert(0, module.pop())
    return "::".join(["/".join(module) + ".py", *classes, name])


def judge(run: Run, tests: Sequence[str]) -> tuple[Verdict, str]:
    """Whether the tests caught what was planted, and why not if they did not.

    Each has to fail, by an assertion of its own. An error at the end of a test that failed is what it left behind.
    """
    if run.status not in (0, 1):
        return Verdict.BROKEN, f"pytest ended with {run.status}"
    for case in run.cases:
        if case.test == WITNESS and case.failure is not None:
            return Verdict.BROKEN, f"not the copy was tested: {case.failure}"
        if case.error is not None and (
            case.failure is None or not case.error.startswith("failed on teardown")
        ):
            return Verdict.BROKEN, f"{case.test}: {_first_line(case.error)}"
        if case.failure is not None and not _REASON.match(case.failure):
            return Verdict.BROKEN, f"{case.test}: {_first_line(case.failure)}"
    missing = [test for test in (WITNESS, *tests) if not run.of(test)]
    if missing:
        return Verdict.BROKEN, f"not run: {missing}"
    passed = [test for test in tests if all(case.failure is None for case in run.of(test))]
    if passed:
        return Verdict.SURVIVED, f"passed: {passed}"
    return Verdict.CAUGHT, ""


def judge_control(run: Run, tests: Sequence[str]) -> str:
    """Why the tests of an unchanged copy did not all pass; empty if they did."""
    faults = [case for case in run.cases if case.failure is not None or case.error is not None]
    if faults:
        return "; ".join(f"{case.test}: {_first_line(case.failure or case.error or '')}" for case in faults)
    missing = [test for test in (WITNESS, *tests) if not run.of(test)]
    if run.status != 0 or missing:
        return f"pytest ended with {run.status}; not run: {missing}"
    return ""


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]


def adopt_orphans() -> None:
    """Become the parent of all that loses its own among our descendants, so that none gets out of sight (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Kill every descendant: a mutant may leave daemons, and those are what it is about."""
    while found := psutil.Process().children(recursive=True):
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        for process in found:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)
        psutil.wait_procs(found, timeout=2)
