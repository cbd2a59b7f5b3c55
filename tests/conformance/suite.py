"""The conformance suite: installing it, running it, reading what it found."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.interop.install import CACHE, install_node, npm_ci

HERE = Path(__file__).resolve().parent
REVISIONS = ("2025-11-25", "2026-07-28")
SUITE_TIMEOUT = 600.0
SCORES = HERE / "scores.json"
"""What the last whole run came to."""
SUMMARY_LINE = re.compile(
    r"^[✓✗] (?P<name>\S+): (?P<passed>\d+) passed, (?P<failed>\d+) failed(?:, \d+ warnings)?$", re.MULTILINE
)
SERVER_SECTION = re.compile(r"^Server scenarios.*?:\n(?P<names>(?:  - \S+\n)+)", re.MULTILINE)


class SuiteError(Exception):
    """The suite did not run to its end, so nothing can be said about the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One run of the suite: what it selects, and the file that says what is known to fail.

    With ``requirements`` only the scenarios count that this revision requires, else all that are run.
    """

    name: str
    title: str
    section: str
    selection: tuple[str, ...]
    expected: Path
    requirements: str | None = None


def requirements(revision: str) -> Leg:
    """What a server has to pass at a revision."""
    return Leg(
        name=revision,
        title=f"Server, required at {revision}",
        section="server",
        selection=("--requirements", revision),
        expected=HERE / f"expected-failures-{revision}.yml",
        requirements=revision,
    )


def everything(section: str, revision: str | None) -> Leg:
    """All that the suite has for a server, or for a client, at a revision; without one, at the newest of each."""
    return Leg(
        name=f"{section}, all of {revision or 'every revision'}",
        title=f"{section.capitalize()}, whole suite at {revision or 'every revision'}",
        section=section,
        selection=("--suite", "all", *(("--spec-version", revision) if revision else ())),
        expected=HERE / f"expected-failures-all-{section}.yml",
    )


LEGS = (*map(requirements, REVISIONS), *(everything("server", revision) for revision in (*REVISIONS, None)))
CLIENT_LEGS = tuple(everything("client", revision) for revision in REVISIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """One scenario at one revision.

    ``outcome`` is ``pass``, ``FAIL``, ``expected`` (fails, and is listed), ``STALE`` (listed, but passes) or
    ``SKIPPED``: a check was left out because the server did not offer what it tests. The suite lets that
    pass; we do not, for the fixture offers all. Of an unscored scenario it is such a word in lower case.
    """

    name: str
    scored: bool
    outcome: str
    passed: int
    failed: int
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the suite said of one scenario; ``complaints`` maps the checks that failed to their messages."""

    name: str
    passed: int
    complaints: dict[str, str]
    skipped: bool

    @classmethod
    def of(cls, summary: re.Match[str], output: Path, prefix: str) -> Finding:
        """Put together a line of the summary and the checks that the scenario wrote."""
        name = summary["name"]
        paths = output.glob(f"{prefix}{name}-20??-??-??T*/checks.json")
        checks = [check for path in paths for check in orjson.loads(path.read_bytes())]
        # To the suite's baseline a warning is a failure too.
        failed = [check for check in checks if check["status"] in {"FAILURE", "WARNING"}]
        complaints = {check["id"]: str(check.get("errorMessage", check["status"])) for check in failed}
        if int(summary["failed"]) and not complaints:
            complaints = {name: "the scenario did not finish; see suite.log"}
        skipped = any(check["status"] == "SKIPPED" for check in checks)
        return cls(name=name, passed=int(summary["passed"]), complaints=complaints, skipped=skipped)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionReport:
    """All scenarios at one revision; ``suite_exit`` is what the suite itself made of them."""

    revision: str
    seconds: float
    suite_exit: int
    scenarios: list[ScenarioResult]

    @property
    def required(self) -> list[ScenarioResult]:
        """The scenarios that count."""
        return [scenario for scenario in self.scenarios if scenario.scored]

    @property
    def score(self) -> str:
        """Scenarios passed of scenarios required."""
        passed = [scenario for scenario in self.required if scenario.outcome in {"pass", "STALE"}]
        return f"{len(passed)}/{len(self.required)}"

    @property
    def told(self) -> str:
        """The score in words, without what is about an extension or OAuth, which the gateway does not offer."""
        groups = {"auth/": "OAuth", "tasks-": "tasks", "sep-2640-": "skills"}
        expected = [scenario for scenario in self.required if scenario.outcome == "expected"]
        left_out = [scenario.name for scenario in expected if scenario.name.startswith(tuple(groups))]
        failing = [
            scenario.name for scenario in expected if scenario.failed and scenario.name not in left_out
        ]
        counted = len(self.required) - len(left_out)
        notes = [f"failing: {', '.join(failing)}"] if failing else []
        for prefix, group in groups.items():
            if number := sum(name.startswith(prefix) for name in left_out):
                notes.append(f"not counted: {number} about {group}")
        unexpected = [scenario for scenario in self.required if scenario.outcome in {"FAIL", "SKIPPED"}]
        return f"{counted - len(failing) - len(unexpected)}/{counted}" + (
            f" ({'; '.join(notes)})" if notes else ""
        )

    @property
    def as_expected(self) -> bool:
        """Whether exactly the listed scenarios fail; both our reading and the suite's have to say so."""
        ours = all(scenario.outcome in {"pass", "expected"} for scenario in self.required)
        return ours and self.suite_exit == 0

    def as_json(self) -> dict[str, Any]:
        """Return it for ``build/conformance.json``."""
        checks = {
            "passed": sum(s.passed for s in self.scenarios),
            "failed": sum(s.failed for s in self.scenarios),
        }
        return {**asdict(self), "score": self.score, "as_expected": self.as_expected, "checks": checks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """An installed suite."""

    node: str
    program: Path
    version: str

    def required(self, revision: str) -> list[str]:
        """Return the server scenarios that count at ``revision``.

        Raises ``SuiteError`` if the list cannot be read.
        """
        done = self._run("list", "--requirements", revision)
        section = SERVER_SECTION.search(done.stdout)
        if done.returncode != 0 or section is None:
            raise SuiteError(f"cannot list the requirements of {revision}:\n{done.stdout}{done.stderr}")
        return [line.removeprefix("  - ") for line in section["names"].splitlines()]

    def run(self, leg: Leg, target: Sequence[str], output: Path) -> RevisionReport:
        """Run all scenarios of a leg against ``target``, the option that names it; details go to ``output``.

        Raises ``SuiteError`` if it did not come to its end.
        """
        listed, skips = expected_failures(leg.expected, leg.section), expected_skips(leg.expected)
        required = self.required(leg.requirements) if leg.requirements else []
        if leg.requirements and (unknown := names_of(listed | skips) - set(required)):
            raise SuiteError(f"{leg.expected.name} names what {leg.name} does not require: {sorted(unknown)}")
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        selection = [*leg.selection, "--expected-failures", str(leg.expected)]
        begin = time.monotonic()
        done = self._run(leg.section, *target, *selection, "--output-dir", str(output))
        (output / "suite.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        found = {match["name"]: match for match in SUMMARY_LINE.finditer(done.stdout)}
        if missing := set(required) - set(found):
            raise SuiteError(
                f"the suite did not report {sorted(missing)}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        prefix = "server-" if leg.section == "server" else ""
        scenarios = [
            judge(
                Finding.of(match, output, prefix),
                scored=name in required or not leg.requirements,
                listed=listed,
                skips=skips,
            )
            for name, match in found.items()
        ]
        if not scenarios:
            raise SuiteError(f"the suite ran nothing:\n{(done.stdout + done.stderr)[-3000:]}")
        seconds = round(time.monotonic() - begin, 1)
        return RevisionReport(
            revision=leg.name, seconds=seconds, suite_exit=done.returncode, scenarios=scenarios
        )

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.node, str(self.program), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=SUITE_TIMEOUT, check=False)
        except subprocess.TimeoutExpired as error:
            raise SuiteError(f"the suite took longer than {SUITE_TIMEOUT:g} s") from error


def judge(
    finding: Finding, *, scored: bool, listed: frozenset[str], skips: frozenset[str] = frozenset()
) -> ScenarioResult:
    """Judge one scenario by what failed, what it skipped, and by the expected-failures file."""
    entries = {entry.partition(":")[2] for entry in listed if entry.split(":")[0] == finding.name}
    if finding.complaints:
        # An entry without a check id stands for any failure of the scenario.
        outcome = "expected" if "" in entries or entries == set(finding.complaints) else "FAIL"
    elif finding.skipped:
        outcome = "expected" if finding.name in skips else "SKIPPED"
    elif entries or finding.name in skips:
        outcome = "STALE"
    else:
        outcome = "pass"
    return ScenarioResult(
        name=finding.name,
        scored=scored,
        outcome=outcome if scored else f"({outcome.lower()}, not scored)",
        passed=finding.passed,
        failed=len(finding.complaints),
        complaints=[f"{check}: {message}" for check, message in finding.complaints.items()],
    )


def names_of(entries: Iterable[str]) -> set[str]:
    """The scenarios that the entries of such a file are about."""
    return {entry.split(":")[0] for entry in entries}


def expected_failures(path: Path, section: str = "server") -> frozenset[str]:
    """Return the entries of an expected-failures file: ``scenario`` or ``scenario:check-id``."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return frozenset(content.get(section) or ())


def expected_skips(path: Path) -> frozenset[str]:
    """Return the scenarios of an expected-failures file of which the suite skips checks (our key, not the suite's)."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return frozenset(content.get("skipped") or ())


def install_suite() -> Suite:
    """Install the suite and, if this machine's is too old, Node.

    Raises ``NodeUnavailableError``.
    """
    package = npm_ci(HERE, CACHE / "conformance") / "node_modules" / "@modelcontextprotocol" / "conformance"
    version = orjson.loads((package / "package.json").read_bytes())["version"]
    return Suite(node=install_node(), program=package / "dist" / "index.js", version=version)
