"""The backends that the clients reach through the gateway, and what to do with each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.interop.install import REPOSITORY, InteropPaths
from tests.interop.steps import ELICITATION, SAMPLING, Json, Script, Step, call, prompt

Era = Literal["legacy", "modern"]
ERAS: tuple[Era, Era] = ("legacy", "modern")
FIXTURE = [sys.executable, "-m", "tests.conformance.fixture"]
CANCELLED = "-cancelled"
"""Ends the id of a second tool with the same backend over stdio, where calls are cancelled: such a backend's questions
are refused from then on, for they might belong to the call that was given up."""

FIXTURES = {f"fixture-{transport}-{era}": era for transport in ("stdio", "http") for era in ERAS}
"""Our own fixture by tool id, kept to one era."""

BACKENDS = ("everything", "filesystem", "memory", "time", "git", *FIXTURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A server and what is done with it; ``script`` takes the name of the client, for backends that remember."""

    script: Callable[[str], Script]
    command: str = ""
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    url: str = ""

    @property
    def twin(self) -> bool:
        """Whether calls are cancelled at a second tool."""
        return not self.url and "cancel" in self.script("any")

    def as_tool(self) -> Json:
        """Return it as an entry of ``tools`` in canalgate.yaml."""
        if self.url:
            return {"url": self.url}
        return {"command": self.command, "args": self.args, "env": self.env, "cwd": str(REPOSITORY)}


def tools_of(backends: dict[str, Backend]) -> dict[str, Json]:
    """The ``tools`` of canalgate.yaml, those included at which calls are cancelled."""
    tools = {name: backend.as_tool() for name, backend in backends.items()}
    return tools | {name + CANCELLED: tools[name] for name, backend in backends.items() if backend.twin}


def all_backends(paths: InteropPaths, directory: Path, fixture_urls: dict[Era, str]) -> dict[str, Backend]:
    """Return the backends by tool id; what they work on is made in ``directory``."""
    files = directory / "files"
    files.mkdir()
    (files / "hello.txt").write_text("hello from a file\n", encoding="utf-8")
    repository = make_repository(directory / "repository")
    scripts = Path(sys.executable).parent
    found = {
        "everything": Backend(
            command=paths.node, args=[str(paths.everything), "stdio"], script=everything_script
        ),
        "filesystem": Backend(
            command=paths.node,
            args=[str(paths.filesystem), str(files)],
            script=lambda client: file_script(files, client),
        ),
        "memory": Backend(
            command=paths.node,
            args=[str(paths.memory)],
            env={"MEMORY_FILE_PATH": str(directory / "memory.jsonl")},
            script=memory_script,
        ),
        "time": Backend(
            command=str(scripts / "mcp-server-time"), args=["--local-timezone", "UTC"], script=time_script
        ),
        "git": Backend(
            command=str(scripts / "mcp-server-git"),
            args=["--repository", str(repository)],
            script=lambda _: git_script(repository),
        ),
    }
    return found | {name: fixture_backend(name, era, fixture_urls[era]) for name, era in FIXTURES.items()}


def fixture_backend(name: str, era: Era, url: str) -> Backend:
    """Our fixture in one era, over HTTP or stdio."""
    if "http" in name:
        return Backend(url=url, script=lambda client: fixture_script(era, client))
    args = [*FIXTURE[1:], "--transport", "stdio", "--era", era]
    return Backend(command=FIXTURE[0], args=args, script=lambda client: fixture_script(era, client))


def fixture_script(era: Era, client: str) -> Script:
    """Everything; only the way in which the fixture asks is another one in each era."""
    return {
        "list": [Step(do="tools", expected="test_until_cancelled")],
        "call": [
            call("test_simple_text", "This is a simple text response for testing."),
            call("test_image_content", "image/png"),
            call("test_audio_content", "audio/wav"),
            call("test_embedded_resource", "test://embedded-resource"),
            call("test_multiple_content_types", '{"test":"data","value":123}'),
            call("test_x_mcp_header", "region=päivää", region="päivää"),
        ],
        "progress": [
            Step(
                do="call",
                name="test_tool_with_progress",
                expected="Tool with progress executed",
                progress=(0, 50, 100),
            )
        ],
        "cancel": [
            Step(do="cancel", name="test_until_cancelled", arguments=(("call", client),), progress=(1,)),
            call("test_was_cancelled", "it was cancelled", call=client),
        ],
        "resource": [
            Step(do="resources", expected="test://static-binary"),
            Step(do="templates", expected="test://template/{id}/data"),
            Step(do="read", uri="test://static-text", expected="content of the static text resource"),
            Step(do="read", uri="test://static-binary", expected="image/png"),
            Step(do="read", uri="test://template/7/data", expected="Data for ID: 7"),
        ],
        "prompt": [
            Step(do="prompts", expected="test_prompt_with_arguments"),
            prompt("test_simple_prompt", "This is a simple prompt for testing."),
            prompt("test_prompt_with_arguments", "arg1='one', arg2='two'", arg1="one", arg2="two"),
            prompt("test_prompt_with_image", "image/png"),
        ],
        **(legacy_questions() if era == "legacy" else modern_questions()),
    }


def legacy_questions() -> Script:
    """A request during the call."""
    return {
        "elicitation": [
            call("test_elicitation", "action=accept", asked=(ELICITATION,), message="Who are you?")
        ],
        "sampling": [
            call("test_sampling", "LLM response: Paris", asked=(SAMPLING,), prompt="What is the capital?")
        ],
    }


def modern_questions() -> Script:
    """A result that asks."""
    return {
        "elicitation": [
            call("test_input_required_result_elicitation", "Hello, Ada!", asked=(ELICITATION,)),
            call("test_input_required_result_request_state", "state-ok", asked=(ELICITATION,)),
            prompt("test_input_required_result_prompt", "context: Ada's", asked=(ELICITATION,)),
        ],
        "sampling": [call("test_input_required_result_sampling", "The model said: Paris", asked=(SAMPLING,))],
    }


def everything_script(_: str) -> Script:
    """The reference server; what it makes with the time of day in it is left out, for results are compared."""
    document = "demo://resource/static/document/features.md"
    return {
        "list": [Step(do="tools", expected="echo")],
        "call": [
            call("echo", "Echo: päivää", message="päivää"),
            call("get-sum", "The sum of 2 and 40 is 42", a=2, b=40),
            call("get-structured-content", "temperature", location="Chicago"),
            call("get-annotated-message", "Debug", messageType="debug", includeImage=True),
            call("get-resource-links", "resource", count=2),
        ],
        "progress": [
            Step(
                do="call",
                name="trigger-long-running-operation",
                arguments=(("duration", 0.2), ("steps", 2)),
                expected="Long running operation completed",
                progress=(1, 2),
            )
        ],
        "resource": [
            Step(do="resources", expected=document),
            Step(do="templates", expected="demo://resource/dynamic/text/{resourceId}"),
            Step(do="read", uri=document, expected="Features"),
        ],
        "prompt": [
            Step(do="prompts", expected="args-prompt"),
            prompt("simple-prompt", "This is a simple prompt without arguments."),
            prompt("args-prompt", "Oulu", city="Oulu", state="Finland"),
        ],
        "elicitation": [
            call("trigger-elicitation-request", "User provided the requested", asked=(ELICITATION,))
        ],
        "sampling": [
            call(
                "trigger-sampling-request",
                "LLM sampling result",
                asked=(SAMPLING,),
                prompt="Which?",
                maxTokens=9,
            )
        ],
    }


def file_script(files: Path, client: str) -> Script:
    """Write a file, then read it and another one."""
    written = str(files / f"{client}.txt")
    return {
        "list": [Step(do="tools", expected="read_text_file")],
        "call": [
            call("write_file", "Successfully wrote", path=written, content=client),
            call("read_text_file", client, path=written),
            call("read_text_file", "hello from a file", path=str(files / "hello.txt")),
        ],
    }


def memory_script(client: str) -> Script:
    """Store an entity, then find it."""
    entity = {"name": f"entity of {client}", "entityType": "test", "observations": [f"seen by {client}"]}
    return {
        "list": [Step(do="tools", expected="open_nodes")],
        "call": [
            call("create_entities", str(entity["name"]), entities=[entity]),
            call("open_nodes", f"seen by {client}", names=[entity["name"]]),
        ],
    }


def time_script(_: str) -> Script:
    """Convert a time between two zones that never change their clocks."""
    return {
        "list": [Step(do="tools", expected="convert_time")],
        "call": [
            call(
                "convert_time",
                "T21:00:00+09:00",
                source_timezone="UTC",
                time="12:00",
                target_timezone="Asia/Tokyo",
            )
        ],
    }


def git_script(repository: Path) -> Script:
    """Read the history of the repository."""
    path = str(repository)
    return {
        "list": [Step(do="tools", expected="git_log")],
        "call": [
            call("git_log", "the first commit", repo_path=path, max_count=1),
            call("git_status", "nothing to commit", repo_path=path),
        ],
    }


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
