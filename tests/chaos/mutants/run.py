"""Plant one fault after the other in a copy of the tree, and demand that its tests catch it.

    python -m tests.chaos.mutants.run [name...]

First an unchanged copy has to pass the same tests (the control). Exit status: 0 all are caught, 1 one is not, 2 the
control failed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.mutants.table import MUTANTS, Mutant
from tests.chaos.mutants.trial import (
    Run,
    Verdict,
    adopt_orphans,
    copy_tree,
    judge,
    judge_control,
    plant,
    require_imports_of,
    run_tests,
)


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tree, for a while."""
    with tempfile.TemporaryDirectory(prefix="cg-mutant-", ignore_cleanup_errors=True) as place:
        tree = Path(place).resolve()
        copy_tree(tree)
        yield tree


def control(tests: Sequence[str]) -> tuple[Run, str]:
    """The unchanged copy; what is wrong with it, if anything is."""
    with copied() as tree:
        require_imports_of(tree)
        run = run_tests(tree, tests)
        return run, judge_control(run, tests)


def attempt(mutant: Mutant) -> tuple[Run, Verdict, str]:
    """One mutant."""
    with copied() as tree:
        plant(mutant.edits, tree)
        run = run_tests(tree, mutant.tests)
        return run, *judge(run, mutant.tests)


def _chosen(names: Sequence[str]) -> list[Mutant]:
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such mutant: {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] or list(MUTANTS)


def _row(name: str, verdict: str, seconds: float, what: str) -> None:
    print(f"{name:<22}  {verdict:<8}  {seconds:5.1f} s  {what}", flush=True)


def main() -> None:
    """Parse the command line, try all, print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants.run", description=__doc__)
    parser.add_argument("name", nargs="*", help="only these mutants")
    mutants = _chosen(parser.parse_args().name)
    adopt_orphans()
    tests = [*dict.fromkeys(test for mutant in mutants for test in mutant.tests)]
    begun = time.monotonic()
    run, fault = control(tests)
    _row(
        "(control)",
        "FAILED" if fault else "passes",
        time.monotonic() - begun,
        f"{len(run.cases)} cases unchanged",
    )
    if fault:
        print(f"\n{run.said}\nthe unchanged tree fails: {fault}", file=sys.stderr)
        sys.exit(2)
    caught = 0
    for mutant in mutants:
        begun = time.monotonic()
        run, verdict, why = attempt(mutant)
        _row(mutant.name, verdict, time.monotonic() - begun, f"rule: {mutant.breaks}")
        if verdict is Verdict.CAUGHT:
            caught += 1
            for test in mutant.tests:
                print(f"    {test}")
        else:
            print(f"    {why}\n{run.said}", file=sys.stderr)
    print(f"\n{caught} of {len(mutants)} mutants are caught")
    sys.exit(0 if caught == len(mutants) else 1)


if __name__ == "__main__":
    main()
