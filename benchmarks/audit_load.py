"""``python -m benchmarks.audit_load``: what observability must not cost, one proof after the other, and a table.

Each proof is a test or a script that stands by itself as well. Rates and latencies are compared within one run alone;
a proof whose figure misses its goal is told, and only one that failed is an error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from benchmarks import slow_sink, tracing
from benchmarks.report import figure, plain_table
from benchmarks.script import Script
from benchmarks.targets import REPOSITORY


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is promised, and the test or the script that shows it; of a test also its full and its small size."""

    promise: str
    test: str = ""
    sizes: tuple[str, str] = ("", "")
    script: Script | None = None


PROOFS = (
    Proof(
        promise="memory does not grow with the number of events",
        test="tests/worker/test_keeper_load.py",
        sizes=("1,000,000 events", "20,000 events"),
    ),
    Proof(
        promise="a sink that fails gets everything later",
        test="tests/e2e/test_audit_sinks.py",
        sizes=("60 s of failure", "3 s of failure"),
    ),
    Proof(promise="a slow sink does not slow calls", script=slow_sink.SCRIPT),
    Proof(promise="tracing and pushed metrics leave the throughput", script=tracing.SCRIPT),
)


@dataclass(slots=True, kw_only=True)
class Found:
    """How a proof came out: lines of the table below its promise."""

    failed: bool
    lines: list[tuple[str, ...]] = field(default_factory=list)


def prove(proof: Proof, *, small: bool, folder: Path) -> Found:
    """Run it; what it prints goes on to the terminal."""
    print(f"\n=== {proof.promise}", flush=True)
    if proof.script is None:
        command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:randomly", proof.test]
        environ = os.environ if small else {**os.environ, "AUDIT_LOAD_FULL": "1"}
        failed = subprocess.run(command, cwd=REPOSITORY, env=environ, check=False).returncode != 0
        verdict = "FAILED" if failed else "holds"
        return Found(failed=failed, lines=[(proof.promise, "", proof.sizes[small], verdict)])
    output = folder / f"{proof.script.name}.json"
    module = proof.script.name.replace("-", "_")
    command = [sys.executable, "-m", f"benchmarks.{module}", "--output", str(output)]
    short = ["--rounds", "2", "--seconds", "1"] if small else []
    failed = subprocess.run([*command, *short], cwd=REPOSITORY, check=False).returncode != 0
    if not output.is_file():
        return Found(failed=True, lines=[(proof.promise, "", "nothing was measured", "FAILED")])
    document = orjson.loads(output.read_bytes())
    return Found(failed=failed, lines=list(_goals(document["goals"], failed=failed)))


def _goals(goals: Sequence[dict[str, object]], *, failed: bool) -> Iterator[tuple[str, ...]]:
    for goal in goals:
        bound = f"{'>=' if goal['at_least'] else '<='} {goal['wanted']}"
        measured = goal["measured"]
        told = figure(measured) if isinstance(measured, (int, float)) else "-"
        verdict = "FAILED" if failed else "holds" if goal["reached"] else "MISSED"
        yield str(goal["goal"]), bound, told, verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all; return the exit code: 0 only if nothing failed."""
    parser = argparse.ArgumentParser(prog="benchmarks.audit_load", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="small numbers, two short rounds each: do they work"
    )
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="audit-load-") as folder:
        found = [prove(proof, small=chosen.small, folder=Path(folder)) for proof in PROOFS]
    head = ("what is promised", "wanted", "measured", "verdict")
    print("\n" + plain_table([head, *(line for it in found for line in it.lines)]))
    if chosen.small:
        print("\nSmall numbers: whether it works, and no proof.")
    return int(any(it.failed for it in found))


if __name__ == "__main__":
    sys.exit(main())
