"""``canalgate policy``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from gateway_web.cli.app import cli

Run = Callable[..., Result]
FILE = """
policy:
  rules:
    - {id: no-deletes, effect: deny, mcp_tools: ["delete_*"]}
    - {effect: deny, resources: ["file:///etc/*"]}
  tools:
    vault: [{effect: allow, scopes: ["vault:*"]}]
  evaluators: [{id: small, type: cel, expression: "!has(arguments.n) || arguments.n < 5"}]
  evaluator: small
"""
WHO = ["--tenant", "t", "--client", "c"]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(cli, list(words))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--tool", "a", "--name", "read"], 0, {"decision": "allow", "evaluator": "small"}),
        (
            ["--tool", "a", "--name", "delete_x"],
            1,
            {"decision": "deny", "rule": "no-deletes", "ground": "rule"},
        ),
        (
            ["--tool", "a", "--name", "read", "--arguments", '{"n": 5}'],
            1,
            {"decision": "deny", "evaluator": "small", "ground": "evaluator"},
        ),
        (
            ["--tool", "a", "--name", "read", "--arguments", '{"n": "five"}'],
            1,
            {"decision": "deny", "evaluator": "small", "ground": "evaluator_error", "reason": "raised"},
        ),
        (["--tool", "vault", "--name", "read"], 1, {"decision": "deny", "ground": "not_allowed"}),
        (
            ["--tool", "vault", "--name", "read", "--scope", "a", "--scope", "vault:r"],
            0,
            {"decision": "allow"},
        ),
        (
            ["--tool", "a", "--name", "FILE:/etc/passwd", "--method", "resources/read"],
            1,
            {"decision": "deny", "rule": "rules[1]"},
        ),
    ],
)
def test_it_says_what_would_be_decided(
    run: Run, file: str, words: list[str], code: int, said: dict[str, str]
) -> None:
    """And by what; exit code 0 for an allowed call, 1 for a denied one."""
    done = run("policy", "test", *WHO, *words, "--config", file, "--json")
    assert done.exit_code == code, done.output
    assert orjson.loads(done.stdout).items() >= said.items()
    plain = run("policy", "test", *WHO, *words, "--config", file)
    assert plain.exit_code == code
    assert dict(line.split(": ", 1) for line in plain.stdout.splitlines()).items() >= said.items()


@pytest.mark.parametrize("words", [["--arguments", "{"], ["--arguments", "[]"], ["--method", "tools/list"]])
def test_what_cannot_be_asked_is_told(run: Run, file: str, words: list[str]) -> None:
    """With the option that is wrong."""
    done = run("policy", "test", *WHO, "--tool", "a", "--name", "x", *words, "--config", file)
    assert done.exit_code == 2
    assert words[0] in done.stderr


def test_a_good_policy_is_good(run: Run, file: str) -> None:
    """With how much of it there is."""
    done = run("policy", "check", "--config", file)
    assert (done.exit_code, done.stdout) == (0, "good: 3 rules, 1 evaluators\n")


@pytest.mark.parametrize("verb", [["policy", "check"], ["config", "check"]])
def test_what_does_not_compile_is_told_with_its_place(run: Run, tmp_path: Path, verb: list[str]) -> None:
    """Each evaluator that does not."""
    path = tmp_path / "c.yaml"
    path.write_text(FILE.replace("arguments.n < 5", "arguments.n <"))
    done = run(*verb, "--config", str(path))
    assert done.exit_code == 1
    assert "line 1, column" in done.stderr


def test_rules_that_are_wrong_are_told_with_their_line(run: Run, tmp_path: Path) -> None:
    """As any other setting."""
    path = tmp_path / "c.yaml"
    path.write_text(FILE.replace("effect: deny, mcp_tools", "effekt: deny, mcp_tools"))
    done = run("policy", "check", "--config", str(path))
    assert done.exit_code == 2
    assert "c.yaml:4" in done.stderr
    assert "effekt" in done.stderr
