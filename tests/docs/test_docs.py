"""The documents say what is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.domain.error_reference import render
from common.settings import load
from gateway_web.cli.app import cli
from tests.support.servers.gateway import START_TIMEOUT
from tests.support.servers.process import free_port, running

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(name: str) -> str:
    """The block after ``<!-- example: name -->`` in the README."""
    found = re.search(rf"<!-- example: {re.escape(name)} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_the_error_table_is_the_code_s() -> None:
    """docs/errors.md holds exactly what the error table says."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert text.partition("<!-- generated: errors -->\n")[2] == render()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document exists."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_verb_of_make_in_the_documents_exists() -> None:
    """``make <verb>`` in a document is a verb of the Makefile."""
    verbs = set(
        re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for document in DOCUMENTS:
        for verb in re.findall(r"`make ([a-z0-9-]+)", document.read_text(encoding="utf-8")):
            assert verb in verbs, f"{document.name}: make {verb}"


def test_every_verb_of_the_command_in_the_documents_exists() -> None:
    """``canalgate <verb>`` in a document is a verb of the command line."""
    known = {
        command.name or command.callback.__name__ for command in cli.registered_commands if command.callback
    }
    known |= {str(group.name) for group in cli.registered_groups}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for verb in re.findall(r"(?:^|`)canalgate (?:--[a-z-]+ \S+ )*([a-z-]+)", text, re.MULTILINE):
            assert verb in known, f"{document.name}: canalgate {verb}"


def test_the_readme_s_settings_are_good(tmp_path: Path) -> None:
    """The example file loads without a problem."""
    file = tmp_path / "canalgate.yaml"
    file.write_text(example("canalgate.yaml"), encoding="utf-8")
    settings = load(file, {})
    assert [tool.id for tool in settings.tools] == ["demo"]
    assert settings.tool_problems == ()


@pytest.mark.e2e
@pytest.mark.timeout(120)
def test_the_readme_s_commands_work(tmp_path: Path) -> None:
    """Every command of "Run it" is run as it stands there, beside a gateway started as it stands there."""
    settings = yaml.safe_load(example("canalgate.yaml")) | {"web": {"port": free_port()}}
    settings["tools"]["demo"]["command"] = sys.executable
    (tmp_path / "canalgate.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    env |= {"CANALGATE_STATE_DIR": str(tmp_path / "s")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    check, up = commands(example("up"))
    assert run(check, tmp_path, env).returncode == 0
    with running(up, log=tmp_path / "up.log", env=env, cwd=tmp_path) as process:
        process.line_beginning("ready", timeout=START_TIMEOUT)
        for command in commands(example("beside")):
            done = run(command, tmp_path, env)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
            if "add" in command:
                assert done.stdout.strip() == "42.0"


def commands(block: str) -> list[list[str]]:
    """The commands of a shell block."""
    return [shlex.split(line, comments=True) for line in block.splitlines() if line.strip()]


def run(command: list[str], directory: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run one command there."""
    return subprocess.run(
        command, cwd=directory, env=env, capture_output=True, text=True, timeout=60, check=False
    )
