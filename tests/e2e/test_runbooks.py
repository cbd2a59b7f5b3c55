"""The boxes in the chapter on alerts: each condition is made, each command run, and the lines are of the form shown."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
COMMAND, *ARGS = server_command("echo")
KEY = "k" * 20
ECHO = {"command": COMMAND, "args": ARGS}
TOOLS: dict[str, Any] = {
    "local": ECHO,
    "broken": {
        "command": "/bin/sh",
        "args": ["-c", "exit 1"],
        "circuit_open_for": 300,
        "circuit_failures": 2,
    },
    "gone": {"command": "no-such-program"},
    "narrow": {**ECHO, "max_in_flight": 1},
    "often": {**ECHO, "retry": "safe"},
    "issued": {
        "url": "http://127.0.0.1:9/mcp",
        "credentials": {
            "scope": "tool",
            "providers": ["client_credentials"],
            "inject": {"headers": {"Authorization": "Bearer {access_token}"}},
        },
    },
}
SETTINGS = {
    "metrics": {"allowed": ["127.0.0.1"]},
    "tenants": {"requests_per_minute": 12, "listed": ["acme"]},
    "identity": {"resolver": "api_key", "api_keys": [{"key": KEY, "tenant": "acme", "client": "c"}]},
    "credentials": {"providers": ["client_credentials"]},
    "client_credentials": {
        "clients": [
            {
                "tool": "issued",
                "token_url": "http://127.0.0.1:9/token",
                "client_id": "canalgate",
                "client_secret": "c" * 20,
            }
        ]
    },
    "audit": {
        "sinks": [
            {"type": "webhook", "name": "hook", "options": {"url": "http://127.0.0.1:9/", "timeout": 1}}
        ]
    },
}


def boxes(alert: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of the section on an alert, with the lines that it is said to print."""
    chapter = OPERATIONS.read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    section = chapter.partition(f"\n### {alert}\n")[2].partition("\n### ")[0]
    for box in re.findall(r"```text\n(.*?)```", section, re.DOTALL):
        for part in box.removeprefix("$ ").split("\n$ "):
            command, *lines = part.strip("\n").splitlines()
            yield command, lines


def form(line: str) -> str:
    """A line without what differs from one time to the next."""
    line = re.sub(r"@[\w.-]+:[0-9a-f]{8}", "@host:id", line)
    line = re.sub(r"worker=worker1@[\w.-]+", "worker=worker1@host", line)
    line = re.sub(r"invocation=[0-9a-f-]{36}", "invocation=id", line)
    line = re.sub(r"not probed|healthy(, \d+ ms)?", "healthy", line)
    line = re.sub(r"; \d+ dead letters", "", line)
    line = re.sub(r"\d+", "0", line)
    line = re.sub(r"0\.0 s|0 s\b", "0 s", line)
    return re.sub(r"\s+", " ", line).strip()


class Rig:
    """A gateway in which the conditions of the alerts are made."""

    def __init__(self, gateway: RunningGateway, directory: Path) -> None:
        self.gateway = gateway
        self._directory = directory
        self._env = {
            "CANALGATE_STATE_DIR": str(directory / "state"),
            "CANALGATE_CONFIG": str(gateway.config),
        }

    def call(self, tool: str, name: str = "echo", key: str = KEY, **arguments: Any) -> Any:
        client = modern(self.gateway.tool_url(tool), authorization=f"Bearer {key}")
        return client.post("tools/call", {"name": name, "arguments": arguments})

    def follow(self, alert: str) -> None:
        """Run the commands of a runbook; each line of its boxes must be among what they print."""
        found = list(boxes(alert))
        assert found, alert
        for command, lines in found:
            words = command.split()
            if words[0] == "canalgate":
                words = [*gateway_command(), *words[1:]]
            done = subprocess.run(
                words,
                cwd=self._directory / "state",
                env={**psutil.Process().environ(), **self._env},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            shown = {form(line) for line in (done.stdout + done.stderr).splitlines()}
            missing = [line for line in lines if form(line) not in shown]
            assert not missing, f"{alert}: {command} shows\n{done.stdout}{done.stderr}"

    def figure(self, name: str) -> float:
        text = httpx.get(f"{self.gateway.url}/metrics", timeout=30).text
        return float(
            next(line for line in text.splitlines() if line.startswith(f"{name} ")).rpartition(" ")[2]
        )

    def unavailable(self, tool: str) -> bool:
        return self.figure(f'canalgate_tool_state{{state="unavailable",tool="{tool}"}}') == 1

    @contextlib.contextmanager
    def frozen(self, word: str) -> Iterator[None]:
        """Its processes whose command line has this word do not run."""
        processes = [it for it in self.gateway.process.descendants() if word in " ".join(it.cmdline())]
        assert processes, word
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def redis(self) -> redis.Redis:
        conf = (self._directory / "state" / "redis" / "redis.conf").read_text()
        (socket,) = re.findall(r'^unixsocket "(.*)"$', conf, re.MULTILINE)
        return redis.Redis(unix_socket_path=socket)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    directory = tmp_path_factory.mktemp("rb")
    with running_gateway(TOOLS, directory=directory, settings=SETTINGS) as gateway:
        yield Rig(gateway, directory)


def test_the_boxes_are_what_the_screen_shows(rig: Rig) -> None:
    """One gateway in which one thing after the other goes wrong."""
    with ThreadPoolExecutor(2) as callers:
        callers.submit(rig.call, "narrow", "sleep", seconds=18)
        wait_until(
            lambda: rig.figure('canalgate_calls_in_flight{tool="narrow"}') == 1,
            timeout=30,
            interval=0.5,
            description="its only slot to be taken",
        )
        callers.submit(rig.call, "narrow", text="x")
        for _ in range(3):
            rig.call("broken")
        rig.call("local", key="no-key-of-ours-at-all")
        rig.call("issued")
        rig.redis().lpush("tool.local", "garbage")
        wait_until(
            lambda: rig.figure('canalgate_queue_age_seconds{tool="narrow"}') > 10,
            timeout=60,
            interval=0.5,
            description="the queue to be old",
        )
        rig.follow("CanalgateQueueOld")
    rig.follow("CanalgateAuditBehind")
    rig.follow("CanalgateDeadLetters")
    rig.follow("CanalgateCallsFail")
    rig.follow("CanalgateCredentialsFail")
    rig.follow("CanalgateIdentityFailures")
    rig.follow("CanalgateCallsRefused")
    wait_until(
        lambda: rig.unavailable("gone") and rig.unavailable("broken"),
        timeout=60,
        interval=0.5,
        description="their probes to fail",
    )
    rig.follow("CanalgateToolUnavailable")
    rig.follow("CanalgateCircuitOpen")


def test_without_workers_or_redis(rig: Rig) -> None:
    """As when they hang; `status` says which of the two it is."""
    with rig.frozen("gateway_worker.app"):
        wait_until(
            lambda: rig.figure("canalgate_workers") == 0,
            timeout=30,
            interval=0.5,
            description="its lease to end",
        )
        rig.follow("CanalgateNoWorker")
    with rig.frozen("valkey-server"):
        rig.follow("CanalgateRedisAway")


def test_a_worker_that_dies_with_a_call_in_hand(rig: Rig) -> None:
    """The call is repeated, since it may be, and the journal has the worker's end."""
    with ThreadPoolExecutor(1) as callers:
        called = callers.submit(rig.call, "often", "sleep", seconds=8)
        wait_until(
            lambda: rig.figure('canalgate_calls_in_flight{tool="often"}') == 1,
            timeout=30,
            interval=0.5,
            description="the call to be taken",
        )
        (worker,) = (it for it in rig.gateway.process.descendants() if is_worker(it))
        worker.kill()
        assert '"result"' in called.result(60).text
    rig.follow("CanalgateCallsRepeated")


def is_worker(process: psutil.Process) -> bool:
    """Whether it is the worker itself, not what it started."""
    words = process.cmdline()
    return "gateway_worker.app" in words and "worker" in words
