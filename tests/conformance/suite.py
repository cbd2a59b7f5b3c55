"""The conformance suite: installing it, running it, reading what it found."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.interop.install import CACHE, install_node, npm_ci

HERE = Path(__file__).resolve().parent
REVISIONS = ("2025-11-25", "2026-07-28")
SUITE_TIMEOUT = 600.0
SUMMARY_LINE = re.compile(
    r"^[✓✗] (?P<name>\S+): (?P<passed>\d+) passed, (?P<failed>\d+) failed$", re.MULTILINE
)
SERVER_SECTION = re.compile(r"^Server scenarios.*?:\n(?P<names>(?:  - \S+\n)+)", re.MULTILINE)


class SuiteError(Exception):
    """The suite did not run to its end, so nothing can be said about the server."""


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
    def of(cls, summary: re.Match[str], output: Path) -> Finding:
        """Put together a line of the summary and the checks that the scenario wrote."""
        name = summary["name"]
        paths = output.glob(f"server-{name}-20??-??-??T*/checks.json")
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

    def run(self, url: str, revision: str, expected: Path, output: Path) -> RevisionReport:
        """Run all server scenarios of ``revision`` against ``url``; details go to ``output``.

        Raises ``SuiteError`` if it did not come to its end.
        """
        required, listed = self.required(revision), expected_failures(expected)
        skips = expected_skips(expected)
        if unknown := {entry.split(":")[0] for entry in listed | skips} - set(required):
            raise SuiteError(
                f"{expected.name} names scenarios that {revision} does not require: {sorted(unknown)}"
            )
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        selection = ["--requirements", revision, "--expected-failures", str(expected)]
        begin = time.monotonic()
        done = self._run("server", "--url", url, *selection, "--output-dir", str(output))
        (output / "suite.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        found = {match["name"]: match for match in SUMMARY_LINE.finditer(done.stdout)}
        if missing := set(required) - set(found):
            raise SuiteError(
                f"the suite did not report {sorted(missing)}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        scenarios = [
            judge(Finding.of(match, output), scored=name in required, listed=listed, skips=skips)
            for name, match in found.items()
        ]
        seconds = round(time.monotonic() - begin, 1)
        return RevisionReport(
            revision=revision, seconds=seconds, suite_exit=done.returncode, scenarios=scenarios
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


def expected_failures(path: Path) -> frozenset[str]:
    """Return the entries of an expected-failures file: ``scenario`` or ``scenario:check-id``."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return frozenset(content.get("server") or ())


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
