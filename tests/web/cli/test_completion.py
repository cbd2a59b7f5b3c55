"""Completion by a real shell: verbs, options, and the ids of the tools there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool
from common.registry.registry import Registry
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys
from gateway_web.cli.output import Exit
from tests.support.egress import ANYTHING
from tests.support.servers.gateway import gateway_command
from tests.web.cli.conftest import Canalgate
from tests.web.cli.served import TOKENS, admin_app, listening


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command ``canalgate`` on PATH."""
    own = tmp_path / "bin"
    own.mkdir()
    script = own / "canalgate"
    command = " ".join(f"'{word}'" for word in [sys.executable, "-m", "gateway_web"])
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{own}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    assert gateway_command()
    return script


def completed(line: str) -> list[str]:
    """What bash would offer at the end of this line, with our script loaded."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
    eval "$(canalgate completion bash)"
    COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
    function=$(complete -p canalgate | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
    $function canalgate '{words[-1]}' '{words[-2]}'
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.timeout(300)  # each completion is a start of bash and of the command
def test_bash_completes_verbs_and_tools(
    program: Path,
    canalgate: Canalgate,
    client: Client,
    keys: Keys,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of this machine's Redis, and of a gateway elsewhere; none if there is none."""
    registry = Registry(client, keys, ANYTHING)
    for name in ("demo", "docs", "other"):
        registry.put(Tool(id=ToolId(name), transport=StdioTransport(command="cmd")))
    assert completed("canalgate tools disable d") == ["demo", "docs"]
    Path("token").write_text(TOKENS["viewer"])
    with listening(admin_app(redis_url, Settings())) as url:
        monkeypatch.setenv("CANALGATE_URL", url)
        monkeypatch.setenv("CANALGATE_TOKEN_FILE", "token")
        monkeypatch.setenv("CANALGATE_REDIS__URL", "unix:///nonexistent.sock")
        assert completed("canalgate tools disable o") == ["other"]
    assert completed("canalgate tools disable o") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(canalgate: Canalgate, shell: str, tmp_path: Path) -> None:
    """Which the shell can read, where it is installed."""
    done = canalgate("completion", shell)
    assert done.exit_code == Exit.OK
    assert "_CANALGATE_COMPLETE" in done.stdout
    if program := shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(done.stdout)
        subprocess.run([program, "-n", str(file)], check=True, timeout=30)


def test_another_shell_is_refused(canalgate: Canalgate) -> None:
    """By name."""
    done = canalgate("completion", "tcsh")
    assert (done.exit_code, "'tcsh'" in done.stderr) == (Exit.USAGE, True)
