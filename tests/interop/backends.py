"""The backends that the clients reach through the gateway, and what to ask each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.interop.install import InteropPaths

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One ``tools/call`` and the text that has to be in its answer."""

    tool: str
    arguments: Json
    expected: str

    def as_json(self) -> Json:
        """Return it as the clients take it."""
        return {"tool": self.tool, "arguments": self.arguments}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A stdio server and its calls; ``calls`` takes the name of the client, for backends that remember."""

    command: str
    args: list[str]
    calls: Callable[[str], list[Call]]
    env: dict[str, str] = field(default_factory=dict)

    def as_tool(self) -> Json:
        """Return it as an entry of ``tools`` in canalgate.yaml."""
        return {"command": self.command, "args": self.args, "env": self.env}


def all_backends(paths: InteropPaths, directory: Path) -> dict[str, Backend]:
    """Return the backends by tool id; what they work on is made in ``directory``."""
    files = directory / "files"
    files.mkdir()
    (files / "hello.txt").write_text("hello from a file\n", encoding="utf-8")
    repository = make_repository(directory / "repository")
    scripts = Path(sys.executable).parent
    return {
        "everything": Backend(
            command=paths.node, args=[str(paths.everything), "stdio"], calls=everything_calls
        ),
        "filesystem": Backend(
            command=paths.node,
            args=[str(paths.filesystem), str(files)],
            calls=lambda client: file_calls(files, client),
        ),
        "memory": Backend(
            command=paths.node,
            args=[str(paths.memory)],
            env={"MEMORY_FILE_PATH": str(directory / "memory.jsonl")},
            calls=memory_calls,
        ),
        "time": Backend(
            command=str(scripts / "mcp-server-time"), args=["--local-timezone", "UTC"], calls=time_calls
        ),
        "git": Backend(
            command=str(scripts / "mcp-server-git"),
            args=["--repository", str(repository)],
            calls=lambda _: git_calls(repository),
        ),
    }


def everything_calls(_: str) -> list[Call]:
    """The reference server: text and numbers."""
    return [
        Call(tool="echo", arguments={"message": "päivää"}, expected="Echo: päivää"),
        Call(tool="get-sum", arguments={"a": 2, "b": 40}, expected="The sum of 2 and 40 is 42"),
    ]


def file_calls(files: Path, client: str) -> list[Call]:
    """Write a file, then read it and another one."""
    written = str(files / f"{client}.txt")
    return [
        Call(
            tool="write_file", arguments={"path": written, "content": client}, expected="Successfully wrote"
        ),
        Call(tool="read_text_file", arguments={"path": written}, expected=client),
        Call(
            tool="read_text_file", arguments={"path": str(files / "hello.txt")}, expected="hello from a file"
        ),
    ]


def memory_calls(client: str) -> list[Call]:
    """Store an entity, then find it."""
    entity = {"name": f"entity of {client}", "entityType": "test", "observations": [f"seen by {client}"]}
    return [
        Call(tool="create_entities", arguments={"entities": [entity]}, expected=str(entity["name"])),
        Call(tool="open_nodes", arguments={"names": [entity["name"]]}, expected=f"seen by {client}"),
    ]


def time_calls(_: str) -> list[Call]:
    """Convert a time between two zones that never change their clocks."""
    zones = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    return [Call(tool="convert_time", arguments=zones, expected="T21:00:00+09:00")]


def git_calls(repository: Path) -> list[Call]:
    """Read the history of the repository."""
    return [
        Call(
            tool="git_log",
            arguments={"repo_path": str(repository), "max_count": 1},
            expected="the first commit",
        ),
        Call(tool="git_status", arguments={"repo_path": str(repository)}, expected="nothing to commit"),
    ]


def make_repository(path: Path) -> Path:
    """Make a git repository with one commit."""
    who = {"NAME": "Interop", "EMAIL": "interop@example.org"}
    identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    env = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
    path.mkdir()
    for command in (
        ["init", "--quiet"],
        ["commit", "--quiet", "--allow-empty", "--message", "the first commit"],
    ):
        subprocess.run(["git", *command], cwd=path, env=env, check=True, timeout=30)
    return path
