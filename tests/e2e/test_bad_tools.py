"""One bad tool is reported and skipped, or gets its typed error within its deadline; the others are not disturbed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import free_port, running_http, server_command

pytestmark = pytest.mark.e2e
STARTUP = 3.0
MARGIN = 2.0


def stdio(*words: object) -> dict[str, Any]:
    """A misbehaving stdio tool."""
    command, *args = server_command("misbehaving", "--mode", *words)
    return {"command": command, "args": args, "startup_timeout": STARTUP, "request_timeout": 5.0}


BAD_STDIO = {
    "missing_command": {"command": "no-such-command-anywhere", "startup_timeout": STARTUP},
    "missing_cwd": {"command": "python3", "cwd": "/no/such/place", "startup_timeout": STARTUP},
    "exits": stdio("exit_at_start"),
    "only_garbage": stdio("only_garbage"),
    "silent": stdio("silent"),
    "bad_initialize": stdio("bad_initialize"),
    "silent_after_init": stdio("silent_after_init"),
}
BAD_HTTP = ("html", "redirect", "status_500", "status_401", "status_429", "hang")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway with one good tool and many bad ones."""
    from contextlib import ExitStack

    directory = tmp_path_factory.mktemp("bad")
    command, *args = server_command("echo")
    tools: dict[str, Any] = {"good": {"command": command, "args": args}, **BAD_STDIO}
    tools["typo"] = {"comand": "python3"}
    tools["refused"] = {"url": f"http://127.0.0.1:{free_port()}/mcp", "startup_timeout": STARTUP}
    with ExitStack() as stack:
        for mode in BAD_HTTP:
            url = stack.enter_context(
                running_http("misbehaving_http", "--mode", mode, log=directory / f"{mode}.log")
            )
            tools[mode] = {"url": url, "startup_timeout": STARTUP, "request_timeout": 5.0}
        yield stack.enter_context(running_gateway(tools, directory=directory))


def test_the_good_tool_is_not_disturbed(gateway: RunningGateway) -> None:
    """It is listed and answers at once, whatever stands beside it."""
    client = modern(gateway.tool_url("good"))
    begun = time.monotonic()
    assert client.text("echo", {"text": "fine"}) == "fine"
    assert time.monotonic() - begun < 2.0
    names = [
        tool["name"] for tool in modern(f"{gateway.url}/mcp").post("tools/list").json()["result"]["tools"]
    ]
    assert "good__echo" in names


@pytest.mark.parametrize("tool", [*BAD_STDIO, *BAD_HTTP, "refused"])
def test_a_bad_tool_gets_its_typed_error_within_its_deadline(gateway: RunningGateway, tool: str) -> None:
    """TRANSPORT_FAILURE or INVOCATION_TIMEOUT, in words that name what is wrong; never a hang, never a traceback."""
    begun = time.monotonic()
    error = modern(gateway.tool_url(tool)).call("echo", {"text": "x"})["error"]
    took = time.monotonic() - begun
    assert error["data"]["code"] in {"TRANSPORT_FAILURE", "INVOCATION_TIMEOUT"}
    assert error["message"]
    assert "Traceback" not in str(error)
    assert took < 5.0 + MARGIN


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("missing_command", "no-such-command-anywhere"),
        ("missing_cwd", "cwd"),
        ("exits", "exit status"),
        ("only_garbage", "no JSON-RPC"),
        ("silent", "startup_timeout"),
        ("html", "text/html"),
        ("redirect", "redirects"),
        ("status_500", "status 500"),
        ("status_401", "status 401"),
        ("refused", "cannot be reached"),
    ],
)
def test_the_error_names_the_cause(gateway: RunningGateway, tool: str, words: str) -> None:
    """The message tells an operator what to mend."""
    assert words in modern(gateway.tool_url(tool)).call("echo", {"text": "x"})["error"]["message"]


def test_a_wrong_entry_is_skipped_and_said(gateway: RunningGateway) -> None:
    """A tool whose entry has a typo does not exist, and the start says why, with the nearest name."""
    error = modern(gateway.tool_url("typo")).call("echo", {"text": "x"})["error"]
    assert error["data"]["code"] == "TOOL_NOT_FOUND"
    assert "comand" in gateway.process.output()
    assert "command" in gateway.process.output()
