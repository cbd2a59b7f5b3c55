"""What the suite runs as the client under test: ``python -m tests.conformance.driver GATEWAY DIRECTORY SERVER``.

The suite's server becomes a tool of the running gateway whose state is in ``DIRECTORY``; then the scenario's operations
are done through that tool. What the suite sees is what the gateway sends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import Any, Literal

import orjson

Json = dict[str, Any]
TIMEOUT = 120.0
LOOK = 0.5


def main() -> None:
    """Add the tool, do what the scenario wants, remove the tool."""
    gateway, directory, server = sys.argv[1:]
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    if scenario.startswith("auth/"):
        sys.exit("the gateway does no OAuth with its backends")
    tool = f"suite-{uuid.uuid4().hex[:12]}"
    definition = orjson.dumps({"url": server, "request_timeout": 60}).decode()
    canalgate(directory, "tools", "add", tool, definition)
    try:
        wait_until_asked(directory, tool)
        play(f"{gateway}/servers/{tool}/mcp", scenario)
    finally:
        canalgate(directory, "tools", "remove", tool)


def canalgate(directory: str, *arguments: str) -> str:
    """Run a command against the gateway and return what it printed."""
    from tests.support.servers.gateway import gateway_command

    done = subprocess.run(
        [*gateway_command(), *arguments],
        env={
            **os.environ,
            "CANALGATE_STATE_DIR": f"{directory}/state",
            "CANALGATE_CONFIG": f"{directory}/canalgate.yaml",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"canalgate {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def wait_until_asked(directory: str, tool: str) -> None:
    """Wait until the gateway has asked the server what it offers."""
    from tests.support.wait import wait_until

    def asked() -> bool:
        found = next(
            row for row in orjson.loads(canalgate(directory, "tools", "--json")) if row["id"] == tool
        )
        return found["offers"] is not None

    wait_until(asked, timeout=TIMEOUT, description=f"{tool} to be asked what it offers", interval=LOOK)


def play(url: str, scenario: str) -> None:
    """Do what the suite's own reference clients do in this scenario."""
    import anyio

    from tests.conformance.driver_scenarios import play_scenario

    revision = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    mode: Literal["legacy", "2026-07-28"] = "2026-07-28" if revision >= "2026" else "legacy"
    context: Json = orjson.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    anyio.run(play_scenario, url, scenario, mode, context)


if __name__ == "__main__":
    main()
