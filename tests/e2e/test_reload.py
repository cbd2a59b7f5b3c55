"""The settings file is changed under a running gateway: a SIGHUP takes over what can be, and no call is lost."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import psutil
import pytest
import yaml
from redis import Redis

from common.audit.journal import Journal
from common.domain.audit import AuditRecord
from common.store.keys import Keys
from tests.support.mcp import RawClient, modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]
COMMAND, *ARGS = server_command("echo")
ECHO = {"command": COMMAND, "args": ARGS}
AT_ONCE, IN_FLIGHT = 12, 4
SETTINGS: dict[str, Any] = {
    "web": {"processes": 2},
    "identity": {
        "resolver": "api_key",
        "api_keys": [
            {"key": "key-of-ann", "tenant": "acme", "client": "ann"},
            {"key": "key-of-bob", "tenant": "acme", "client": "bob"},
        ],
    },
    "tenants": {"listed": ["acme"]},
    "metrics": {"allowed": ["127.0.0.1"]},
    "logging": {"format": "json"},
}
TOOLS: dict[str, Any] = {
    "kept": ECHO,
    "changes": ECHO,
    "goes": {**ECHO, "max_in_flight": IN_FLIGHT, "routing": "least_loaded", "pool_size": 1},
}


class Running:
    """A gateway and its file."""

    def __init__(self, gateway: RunningGateway, redis: Redis) -> None:
        self.gateway = gateway
        self.redis = redis
        self.settings, self.tools = copy.deepcopy(SETTINGS), copy.deepcopy(TOOLS)
        self.in_force = copy.deepcopy((self.settings, self.tools))

    def client(self, tool: str, key: str = "key-of-ann") -> RawClient:
        return modern(self.gateway.tool_url(tool), authorization=f"Bearer {key}")

    def write(self, text: str | None = None) -> None:
        draft = self.gateway.config.with_suffix(".new")
        draft.write_text(text or yaml.safe_dump({**self.settings, "tools": self.tools}))
        draft.replace(self.gateway.config)

    def hang_up(self) -> None:
        self.gateway.process.popen.send_signal(signal.SIGHUP)

    def reload(self) -> None:
        """Write the file, and wait until each process has taken it over."""
        before = len(self.events("settings_reloaded"))
        self.write()
        self.hang_up()
        # Two web processes and a worker.
        wait_until(
            lambda: len(self.events("settings_reloaded")) == before + 3,
            timeout=30,
            description="each process to take the settings over",
        )
        self.in_force = copy.deepcopy((self.settings, self.tools))

    def events(self, kind: str) -> list[AuditRecord]:
        journal = Journal(self.redis, Keys())
        return journal.newest(1000, chosen=lambda record: record.kind == kind)

    def printed(self) -> str:
        return self.gateway.process.output()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("reload")
    with running_gateway(TOOLS, directory=directory, settings=SETTINGS) as gateway:
        record = orjson.loads((directory / "state" / "run.json").read_bytes())
        with Redis.from_url(record["redis_url"]) as client:
            yield Running(gateway, client)


@pytest.fixture
def running(started: Running) -> Running:
    """The gateway with the settings of this module, whatever the test before it made of them."""
    started.settings, started.tools = copy.deepcopy(SETTINGS), copy.deepcopy(TOOLS)
    if started.in_force == (SETTINGS, TOOLS):
        started.write()
    else:
        started.reload()
    return started


@contextlib.contextmanager
def ended_by(over: threading.Event) -> Iterator[None]:
    """However it ends, whoever looks at the event goes on."""
    try:
        yield
    finally:
        over.set()


def outcome(message: Mapping[str, Any]) -> str:
    return "ok" if "result" in message else str(message["error"].get("data", {}).get("code", message))


def test_no_call_is_lost_while_tools_come_change_and_go(running: Running) -> None:
    """Calls run, wait in queues and begin while the file is read; each of them is answered by its backend.

    Neither a process nor a session that did not change is replaced, and a tool that is gone from the file first ends
    what was accepted.
    """
    processes = pids(running.gateway)
    session = running.client("kept").text("pid")
    over, outcomes = threading.Event(), []

    def keep_calling(tool: str) -> None:
        client = running.client(tool)
        while not over.is_set():
            outcomes.append((tool, outcome(client.call("echo", {"text": "x"}))))

    with ThreadPoolExecutor(AT_ONCE + 8) as pool, ended_by(over):
        callers = [pool.submit(keep_calling, tool) for tool in ("kept", "changes", "kept", "changes")]
        long = [pool.submit(running.client("kept").call, "sleep", {"seconds": 3}) for _ in range(2)]
        leaving = [
            pool.submit(running.client("goes").call, "sleep", {"seconds": 1.5}) for _ in range(AT_ONCE)
        ]
        wait_until(
            lambda: running.redis.llen("tool.goes") == AT_ONCE - IN_FLIGHT,
            timeout=30,
            description="all of them to be accepted, and some to run",
        )
        running.tools["changes"] = {**ECHO, "idle_timeout": 77}
        running.tools["comes"] = ECHO
        del running.tools["goes"]
        running.reload()
        wait_until(
            lambda: outcome(running.client("comes").call("echo", {"text": "x"})) == "ok",
            timeout=20,
            description="the new tool to be served",
        )
        gone = running.client("goes").call("echo", {"text": "x"})
        assert outcome(gone) in ("TOOL_DISABLED", "TOOL_NOT_FOUND")
        assert {outcome(call.result(60)) for call in (*long, *leaving)} == {"ok"}
        over.set()
        for caller in callers:
            caller.result(30)
    assert set(outcomes) == {("kept", "ok"), ("changes", "ok")}
    wait_until(
        lambda: not running.redis.hexists(Keys().registry_tools, "goes"),
        timeout=20,
        description="the tool to be removed when its calls have ended",
    )
    assert pids(running.gateway) >= processes - children_of_tools(processes)
    assert running.client("kept").text("pid") == session
    (removed,) = [event for event in running.events("tool_removed") if event.fields["tool"] == "goes"]
    assert removed.fields["actor"] == "file"


def test_a_broken_file_changes_nothing_and_is_told(running: Running) -> None:
    """With its line and the key; it is counted and audited, and nothing of it leaks."""
    before = running.redis.get(Keys().registry_version)
    good = running.gateway.config.read_text()
    printed = len(running.printed())
    running.write(good + "wbe: {port: 1}\n")
    running.hang_up()
    wait_until(lambda: "not reloaded" in running.printed()[printed:], description="the refusal")
    line = good.count("\n") + 1
    assert f"canalgate.yaml:{line}: unknown key 'wbe'" in running.printed()[printed:]
    (event, *_) = wait_until(lambda: running.events("settings_refused"), description="its record")
    assert "wbe" in event.fields["detail"]
    assert outcome(running.client("kept").call("echo", {"text": "x"})) == "ok"
    assert running.redis.get(Keys().registry_version) == before


def test_a_tool_that_cannot_be_made_refuses_the_whole_file(running: Running) -> None:
    """At a start it would be left out; here that would take away the tool that runs."""
    printed = len(running.printed())
    running.tools["kept"] = {"comand": "echo"}
    running.tools["more"] = ECHO
    running.write()
    running.hang_up()
    wait_until(lambda: "not reloaded" in running.printed()[printed:], description="the refusal")
    assert "kept" in running.printed()[printed:]
    assert outcome(running.client("kept").call("echo", {"text": "x"})) == "ok"
    assert not running.redis.hexists(Keys().registry_tools, "more")


def test_a_process_alone_refuses_a_broken_file_itself(running: Running) -> None:
    """As in a container: the signal goes to gunicorn's master and to a worker, with no supervisor before them."""
    before = len(running.events("settings_refused"))
    record = orjson.loads((running.gateway.config.parent / "state" / "run.json").read_bytes())
    running.write("tools: [")
    for name in ("web", "worker1"):
        os.kill(record["children"][name], signal.SIGHUP)
    wait_until(
        lambda: len(running.events("settings_refused")) == before + 3,
        description="three refusals",
        timeout=20,
    )
    assert outcome(running.client("kept").call("echo", {"text": "x"})) == "ok"
    told = (running.gateway.config.parent / "state" / "logs" / "worker1.log").read_text()
    assert "settings_refused" in told


def test_callers_tenants_policy_and_logs_are_others_at_once(running: Running) -> None:
    """In each web process, without an end of any; what needs a restart is named, and holds back nothing else."""
    assert running.client("kept", "key-of-bob").post("tools/list").status_code == 200
    running.settings["identity"]["api_keys"][1] = {"key": "key-of-eve", "tenant": "other", "client": "eve"}
    running.settings["tenants"] = {"listed": ["acme", {"id": "other", "requests_per_minute": 5}]}
    running.settings["policy"] = {"rules": [{"effect": "deny", "clients": ["eve"], "tools": ["changes"]}]}
    running.settings["logging"] = {"format": "json", "level": "debug"}
    running.settings["web"] = {"processes": 2, "max_body_bytes": 1024}
    printed = len(running.printed())
    running.reload()
    for _ in range(8):  # whichever process takes it
        assert running.client("kept", "key-of-bob").post("tools/list").status_code == 401
        assert running.client("changes", "key-of-ann").post("tools/list").status_code == 200
        assert (
            outcome(running.client("changes", "key-of-eve").call("echo", {"text": "x"})) == "TOOL_NOT_FOUND"
        )
    told = [running.client("kept", "key-of-eve").call("echo", {"text": "x"}) for _ in range(8)]
    assert "RATE_LIMITED" in " ".join(map(outcome, told)) or "THROTTLED" in " ".join(map(outcome, told))
    assert outcome(running.client("kept").call("echo", {"text": "x" * 4000})) == "ok"
    assert "need a restart: web.max_body_bytes" in running.printed()[printed:]
    logs = running.gateway.config.parent / "state" / "logs"
    for name in ("web", "worker1"):
        wait_until(
            lambda name=name: '"level": "debug"' in (logs / f"{name}.log").read_text(),  # type: ignore[misc]
            description=f"debug lines of {name}",
        )


def test_the_own_file_is_applied_and_the_rest_of_it_read_anew(running: Running) -> None:
    """``canalgate apply`` finds the gateway that runs here by its file: changed tools are its user's change."""
    before = len(running.events("settings_reloaded"))
    running.tools["changes"] = {**ECHO, "idle_timeout": 66}
    running.settings["tenants"] = {"listed": ["acme", "umbra"]}
    running.write()
    state = running.gateway.config.parent / "state"
    command = [*gateway_command(), "apply", str(running.gateway.config)]
    environment = {**os.environ, "CANALGATE_STATE_DIR": str(state)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        given = [*command, *words]
        return subprocess.run(
            given, env=environment, cwd=state, check=False, capture_output=True, text=True, timeout=60
        )

    shown = run("--diff")
    assert shown.returncode == 5, shown.stderr
    assert "~ tool changes" in shown.stdout
    assert run().returncode == 0
    running.in_force = copy.deepcopy((running.settings, running.tools))
    wait_until(
        lambda: len(running.events("settings_reloaded")) == before + 3,
        timeout=30,
        description="each process to take the rest over",
    )
    changed = [event for event in running.events("tool_updated") if event.fields["tool"] == "changes"]
    assert changed[0].fields["actor"].startswith("cli:")
    assert run("--diff").returncode == 0


def pids(gateway: RunningGateway) -> set[int]:
    """All processes of the gateway that live."""
    return {process.pid for process in gateway.process.descendants()}


def children_of_tools(found: set[int]) -> set[int]:
    """Those among them that are backends."""
    backends = set()
    for pid in found:
        try:
            line = psutil.Process(pid).cmdline()
        except psutil.NoSuchProcess:
            backends.add(pid)
            continue
        if any(part.endswith("echo.py") for part in line):
            backends.add(pid)
    return backends
