"""The commands of an example's README, and what it says of each."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers.process import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
_COMMAND = re.compile(r"^(?P<command>.+?)\s+# (?P<how>shows|refused): (?P<words>.+)$")


@dataclass(frozen=True, slots=True)
class Command:
    """A line; ``words`` come with its output, and it fails if it is ``refused``."""

    line: str
    refused: bool
    words: str


def commands(name: str) -> list[Command]:
    """Those of which the README says what they show."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    found = (_COMMAND.match(line) for block in blocks for line in block.splitlines())
    return [Command(line["command"], line["how"] == "refused", line["words"]) for line in found if line]


def environment(**values: str) -> dict[str, str]:
    """That of a person who works in a clone, without settings of the gateway's."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return {**env, "PYTHONPATH": str(REPOSITORY), **values}


def hold(command: Command, env: dict[str, str], ports: Mapping[int, int]) -> None:
    """Run it, and hold it to what the README says; ``ports`` take the place of its own."""
    line = command.line
    for stated, port in ports.items():
        line = line.replace(f"127.0.0.1:{stated}", f"127.0.0.1:{port}")
    done = subprocess.run(
        shlex.split(line), cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert command.words in said, f"{line}\n{said}"
    assert (done.returncode != 0) == command.refused, f"{line}\n{said}"
