"""Completion by a real shell: verbs, options, and the ids of the tools there are."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@pytest.mark.timeout(300)
def test_fish_completes_verbs_options_and_tools(
    program: Path, canalgate: Canalgate, client: Client, keys: Keys
) -> None:
    """With what each does."""
    fish = shell("fish")
    Registry(client, keys, ANYTHING).put(Tool(id=ToolId("demo"), transport=StdioTransport(command="cmd")))
    lines = ("tools disa", "tools disable d", "tools disable --u", "completion z")
    script = "canalgate completion fish | source\n" + "\n".join(
        f"complete -C 'canalgate {line}'" for line in lines
    )
    done = subprocess.run(
        [fish, "--no-config", "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert [word for word in offered if word] == ["disable", "demo", "--url", "zsh"]


@pytest.mark.timeout(300)  # each completion is a start of the command
def test_zsh_completes_verbs_and_tools(
    program: Path, canalgate: Canalgate, client: Client, keys: Keys, tmp_path: Path
) -> None:
    """At a terminal, where the line alone that the document gives stands in ~/.zshrc."""
    zsh = shell("zsh")
    Registry(client, keys, ANYTHING).put(Tool(id=ToolId("demo"), transport=StdioTransport(command="cmd")))
    (tmp_path / ".zshrc").write_text('PS1="ready> "; eval "$(canalgate completion zsh)"\n')
    with at_terminal([zsh, "-i"], tmp_path) as (send, seen):
        seen("ready> ")
        send("canalgate tools disa\t")
        seen("tools disable ")
        send("d\t")
        seen("demo")


def shell(name: str) -> str:
    """Where it is. Skips, loudly, without it."""
    if (found := shutil.which(name)) is None:
        pytest.skip(f"NO {name.upper()} HERE: its completion is not tested (Debian: apt install {name})")
    return found


@contextmanager
def at_terminal(
    command: list[str], home: Path
) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """A program at a terminal of its own: what types there, and what waits until a text has appeared."""
    ours, theirs = pty.openpty()
    env = os.environ | {"TERM": "dumb", "ZDOTDIR": str(home), "HOME": str(home)}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True, close_fds=True
    ) as process:
        os.close(theirs)
        shown = ""

        def seen(text: str) -> None:
            nonlocal shown
            ends = time.monotonic() + 60
            while text not in shown:
                if not select.select([ours], [], [], max(0.0, ends - time.monotonic()))[0]:
                    pytest.fail(f"{text!r} did not appear: {shown!r}")
                shown += os.read(ours, 65_536).decode(errors="replace")
            shown = shown.partition(text)[2]

        try:
            yield (lambda text: (os.write(ours, text.encode()), None)[1]), seen
        finally:
            process.kill()
            os.close(ours)


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
