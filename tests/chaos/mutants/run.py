"""Plant one fault after the other in a copy of the tree, and demand that its tests catch it.

    python -m tests.chaos.mutants.run [name...]

First the unchanged copy has to pass the same tests (the control). Exit status: 0 all are caught, 1 one is not, 2 the
control failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.mutants.table import MUTANTS, Mutant
from tests.chaos.mutants.trial import (
    Run,
    Verdict,
    adopt_orphans,
    copy_tree,
    judge,
    judge_control,
    planted,
    require_imports_of,
    run_tests,
)


def control(tree: Path, tests: Sequence[str]) -> tuple[Run, str]:
    """The unchanged copy; what is wrong with it, if anything is."""
    require_imports_of(tree)
    run = run_tests(tree, tests)
    return run, judge_control(run, tests)


def attempt(tree: Path, mutant: Mutant) -> tuple[Run, Verdict, str]:
    """One mutant."""
    with planted(mutant.edits, tree):
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


def _try_all(tree: Path, mutants: Sequence[Mutant]) -> int:
    """Print the table; returns the exit status."""
    tests = [*dict.fromkeys(test for mutant in mutants for test in mutant.tests)]
    begun = time.monotonic()
    run, fault = control(tree, tests)
    cases = f"{len(run.cases)} cases in the unchanged copy"
    _row("(control)", "FAILED" if fault else "passes", time.monotonic() - begun, cases)
    if fault:
        print(f"\n{run.said}\nthe unchanged copy fails: {fault}", file=sys.stderr)
        return 2
    caught = 0
    for mutant in mutants:
        begun = time.monotonic()
        run, verdict, why = attempt(tree, mutant)
        _row(mutant.name, verdict, time.monotonic() - begun, f"rule: {mutant.breaks}")
        if verdict is Verdict.CAUGHT:
            caught += 1
            print("".join(f"    {test}\n" for test in mutant.tests), end="", flush=True)
        else:
            print(f"    {why}\n{run.said}", file=sys.stderr, flush=True)
    print(f"\n{caught} of {len(mutants)} mutants are caught")
    return 0 if caught == len(mutants) else 1


def main() -> None:
    """Parse the command line, copy the tree, try all."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants.run", description=__doc__)
    parser.add_argument("name", nargs="*", help="only these mutants")
    mutants = _chosen(parser.parse_args().name)
    # SIGTERM takes the same way out as Ctrl-C, past everything that has to be ended and removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="cg-mutants-", ignore_cleanup_errors=True) as place:
        tree = Path(place).resolve()
        copy_tree(tree)
        try:
            status = _try_all(tree, mutants)
        except KeyboardInterrupt:
            status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
