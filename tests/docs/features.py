"""README's table of what works, made of the tests that prove it: ``python -m tests.docs.features`` writes it.

The rows stand in ``features.yml``. Those of the clients are made from the interop matrix, those of the conformance
suite from the scores of the last whole run of ``make conformance``, less its expected failures.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import yaml

from tests.conformance.suite import CLIENT_LEGS, LEGS, SCORES
from tests.interop.backends import BACKENDS
from tests.interop.clients import CLIENTS, Client
from tests.interop.steps import SCENARIOS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FEATURES = Path(__file__).with_name("features.yml")
BEGIN, END = "<!-- generated: features -->\n", "<!-- end of features -->\n"
DOORS = {"mcp": "Streamable HTTP", "sse": "HTTP+SSE", "ws": "WebSocket"}
PROGRAMS = {
    "python": "Python SDK",
    "client_v1.mjs": "TypeScript SDK 1.x",
    "client_v2.mjs": "TypeScript SDK 2.x",
    "inspector": "MCP Inspector CLI",
}
MATRIX = "tests/interop/test_interop.py::test_client_works_with_backend"
SUITE = "tests/conformance/test_suite.py::test_the_scores_are_those_of_every_leg"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A feature, and the tests that fail without it."""

    group: str
    what: str
    tests: tuple[str, ...]


def rows() -> Iterator[Row]:
    """All rows, in their order."""
    for group in yaml.safe_load(FEATURES.read_text(encoding="utf-8")):
        for row in group["rows"]:
            yield Row(group=group["group"], what=row["what"], tests=tuple(row["tests"]))
    for name, client in CLIENTS.items():
        yield Row(
            group=f"Clients, with {len(BACKENDS)} backends", what=described(name, client), tests=(MATRIX,)
        )
    scores: dict[str, Any] = orjson.loads(SCORES.read_bytes())
    for leg in (*LEGS, *CLIENT_LEGS):
        score = scores["scores"].get(leg.name, "not run")
        yield Row(group=f"Conformance suite {scores['suite']}", what=f"{leg.title}: {score}", tests=(SUITE,))


def described(name: str, client: Client) -> str:
    """A client, and what it is made to do."""
    able = [scenario for scenario in SCENARIOS if scenario in client.can]
    done = "all" if len(able) == len(SCENARIOS) else ", ".join(able)
    return f"{PROGRAMS[client.program]}, {DOORS[client.door]}, {client.revision} (`{name}`): {done}"


def render() -> str:
    """The table."""
    lines = ["| what works | proven by |", "|---|---|"]
    group = ""
    for row in rows():
        if row.group != group:
            group = row.group
            lines.append(f"| **{group}** | |")
        lines.append(f"| {row.what} | {', '.join(map(link, row.tests))} |")
    return "\n".join(lines) + "\n"


def link(test: str) -> str:
    """A test as the table shows it."""
    path, _, function = test.partition("::")
    return f"[{function.removeprefix('test_').replace('_', ' ')}]({path})"


@cache
def functions(path: str) -> frozenset[str]:
    """The tests of a file."""
    file = ROOT / path
    if not file.exists():
        return frozenset()
    found = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(
        node.name
        for node in found
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def missing(row: Row) -> list[str]:
    """The tests of a row that are not there."""
    parts = [(test, *test.partition("::")[::2]) for test in row.tests]
    return [test for test, path, function in parts if function not in functions(path)]


def main() -> None:
    """Write the table into README."""
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    README.write_text(before + BEGIN + render() + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
