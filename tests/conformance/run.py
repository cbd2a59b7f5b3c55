"""Run the official conformance suite against the gateway: ``python -m tests.conformance.run``.

It starts our fixture server and a gateway that has it as its only tool, runs the suite for each revision and whole,
then the suite for clients against what a gateway sends to its backends (``driver.py``), prints a table and writes
``build/conformance.json``. The exit code is 0 only if exactly what is listed in the ``expected-failures`` files fails.
``--direct`` leaves the gateway out, ``--target`` starts nothing; neither has a client.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import orjson
from mcp import Client

from tests.conformance.fixture import TOOLS
from tests.conformance.fixture_process import FIXTURE, running_fixture
from tests.conformance.suite import (
    CLIENT_LEGS,
    LEGS,
    REVISIONS,
    SCORES,
    RevisionReport,
    Suite,
    SuiteError,
    install_suite,
)
from tests.interop.install import REPOSITORY, NodeUnavailableError
from tests.support.servers.balanced import balanced_gateway
from tests.support.servers.gateway import running_gateway
from tests.support.wait import wait_until

BUILD = REPOSITORY / "build"
TOOL_ID = "fixture"
DETAILS = BUILD / "conformance"
FIXTURE_LOG = DETAILS / "fixture.log"
LIST_TIMEOUT = 30.0
CLIENT_TIMEOUT_MS = 180_000
"""For all scenarios for clients together: the suite runs them at once."""


@contextlib.contextmanager
def gateway_url(directory: Path, transport: str, *, balanced: bool) -> Iterator[str]:
    """Run a gateway in front of the fixture and yield the URL of its one tool."""
    with contextlib.ExitStack() as stack:
        tool: dict[str, Any]
        if transport == "http":
            tool = {"url": stack.enter_context(running_fixture(log=FIXTURE_LOG))}
        else:
            tool = {
                "command": FIXTURE[0],
                "args": [*FIXTURE[1:], "--transport", "stdio"],
                "cwd": str(REPOSITORY),
            }
        log = DETAILS / "gateway.log"
        start = balanced_gateway if balanced else running_gateway
        gateway = stack.enter_context(start({TOOL_ID: tool}, directory=directory, log=log))
        yield gateway.tool_url(TOOL_ID)


@contextlib.contextmanager
def target_url(arguments: argparse.Namespace, directory: Path) -> Iterator[str]:
    """Yield what is to be tested, started as the command line says."""
    if arguments.target:
        yield arguments.target
    elif arguments.direct:
        with running_fixture(log=FIXTURE_LOG) as url:
            yield url
    else:
        with gateway_url(directory, arguments.fixture_transport, balanced=arguments.balanced) as url:
            yield url


def wait_for_tools(url: str) -> None:
    """Wait until ``tools/list`` has all of the fixture's tools: a dead server passes three scenarios.

    Raises ``SuiteError`` with the last reason if that does not happen.
    """
    reason = "no answer"

    async def names() -> set[str]:
        async with Client(url, cache=None) as client:
            return {tool.name for tool in (await client.list_tools()).tools}

    def listed() -> bool:
        nonlocal reason
        try:
            missing = TOOLS.keys() - anyio.run(names)
        except Exception as error:  # a gateway that is still connecting may refuse in any way
            reason = repr(error)
            return False
        reason = f"missing: {sorted(missing)}"
        return not missing

    try:
        wait_until(listed, timeout=LIST_TIMEOUT, description="tools/list", interval=0.5)
    except AssertionError as error:
        raise SuiteError(f"the fixture's tools are not all listed at {url}: {reason}") from error


def print_table(report: RevisionReport) -> None:
    """Print a line a scenario, and below a failing one what it complained about."""
    print(f"\n{report.revision}: {report.score} required scenarios in {report.seconds:g} s")
    width = max(len(scenario.name) for scenario in report.scenarios)
    for scenario in report.scenarios:
        checks = f"{scenario.passed}/{scenario.passed + scenario.failed}"
        print(f"  {scenario.name:<{width}}  {checks:>7}  {scenario.outcome}")
        if scenario.scored:
            for complaint in scenario.complaints:
                print(f"      {complaint[:300]}")
    if not report.as_expected:
        print(f"  NOT as expected (the suite's own exit code: {report.suite_exit})")


def write_json(arguments: argparse.Namespace, version: str, reports: list[RevisionReport]) -> None:
    """Write what was found so far to ``build/conformance.json``."""
    target = arguments.target or (
        "fixture"
        if arguments.direct
        else f"gateway, {arguments.fixture_transport}{', balanced' * arguments.balanced}"
    )
    revisions = {report.revision: report.as_json() for report in reports}
    written = {"suite": version, "target": target, "revisions": revisions}
    (BUILD / "conformance.json").write_bytes(orjson.dumps(written, option=orjson.OPT_INDENT_2) + b"\n")


def write_scores(suite: Suite, reports: list[RevisionReport]) -> None:
    """Keep what a whole run came to, for README."""
    scores = {report.revision: report.told for report in reports}
    SCORES.write_bytes(
        orjson.dumps({"suite": suite.version, "scores": scores}, option=orjson.OPT_INDENT_2) + b"\n"
    )


def run_clients(suite: Suite, told: Callable[[RevisionReport], None]) -> None:
    """Run the suite's servers as backends of a gateway; ``driver.py`` makes them its tools and uses them.

    Raises as :func:`run`.
    """
    with tempfile.TemporaryDirectory(prefix="canalgate-") as scratch:
        # What a scenario leaves behind is none of the next one's business, so nobody is asked twice.
        settings = {
            "discovery": {"ttl": 86400},
            # The suite's servers are registered at run time, on this machine.
            "egress": {"allowed_networks": ["127.0.0.0/8", "::1"]},
        }
        log = DETAILS / "gateway-client.log"
        with running_gateway({}, directory=Path(scratch), settings=settings, log=log) as gateway:
            for leg in CLIENT_LEGS:
                command = f"{sys.executable} -m tests.conformance.driver {gateway.url} {scratch}"
                target = ["--command", command, "--timeout", str(CLIENT_TIMEOUT_MS)]
                told(suite.run(leg, target, DETAILS / leg.name))


def run(arguments: argparse.Namespace) -> bool:
    """Run the suite for the revisions asked for; return whether all went as expected.

    Raises ``NodeUnavailableError``, ``SuiteError`` and, for what did not start or stop cleanly,
    ``AssertionError``.
    """
    suite = install_suite()
    reports: list[RevisionReport] = []
    legs = [leg for leg in LEGS if not arguments.revision or leg.requirements in arguments.revision]

    def told(report: RevisionReport) -> None:
        reports.append(report)
        print_table(report)
        write_json(arguments, suite.version, reports)

    with (
        tempfile.TemporaryDirectory(prefix="canalgate-") as scratch,
        target_url(arguments, Path(scratch)) as url,
    ):
        print(f"conformance {suite.version} against {url}", flush=True)
        wait_for_tools(url)
        for leg in legs:
            told(suite.run(leg, ["--url", url], DETAILS / leg.name))
    if not (arguments.revision or arguments.direct or arguments.target):
        run_clients(suite, told)
        if all(report.as_expected for report in reports):
            write_scores(suite, reports)
    return all(report.as_expected for report in reports)


def main() -> None:
    """Parse the command line, run, and exit with 0, 1 (not as expected) or 2 (could not run)."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.conformance.run")
    parser.add_argument("--fixture-transport", choices=("http", "stdio"), default="http")
    parser.add_argument("--direct", action="store_true", help="test the fixture itself")
    parser.add_argument(
        "--target", metavar="URL", help="test what runs there, which must serve the fixture's tools"
    )
    parser.add_argument(
        "--revision", choices=REVISIONS, action="append", help="only this one; can be repeated"
    )
    parser.add_argument(
        "--balanced", action="store_true", help="two web processes behind a balancer, without stickiness"
    )
    arguments = parser.parse_args()
    # SIGTERM takes the same way out as Ctrl-C, through every context manager.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        as_expected = run(arguments)
    except (NodeUnavailableError, SuiteError, AssertionError) as error:
        print(f"conformance could not run: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if as_expected else 1)


if __name__ == "__main__":
    main()
