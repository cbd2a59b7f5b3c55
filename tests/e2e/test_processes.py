"""Several web processes and workers, started apart; tools that come and go; stock Celery at the queue."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery import Celery

from tests.support.mcp import legacy, modern
from tests.support.redis import RedisServer
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
COMMAND, *ARGS = server_command("echo")
ECHO = {"command": COMMAND, "args": ARGS}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two web processes and two workers behind one port."""
    settings = {
        "web": {"processes": 2},
        "worker": {"processes": 2},
        "egress": {"allowed_commands": [shlex.join([ECHO["command"], *ECHO["args"]])]},
    }
    tools = {"one": ECHO, "with/slash & blank": ECHO}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("many"), settings=settings) as found:
        yield found


def canalgate(gateway: RunningGateway, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command beside the gateway."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("CANALGATE_")}
    env["CANALGATE_CONFIG"] = str(gateway.config)
    env["CANALGATE_STATE_DIR"] = str(gateway.config.parent / "state")
    return subprocess.run(
        [sys.executable, "-m", "gateway_web", *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def redis_url(gateway: RunningGateway) -> str:
    """The address of the gateway's Redis, as Celery spells it."""
    import orjson

    record = orjson.loads((gateway.config.parent / "state" / "run.json").read_bytes())
    return (
        "redis+socket://" + record["redis_url"].removeprefix("unix://").partition("?")[0] + "?virtual_host=0"
    )


def test_any_web_process_serves_any_session(gateway: RunningGateway) -> None:
    """A session made by one process works in all: forty fresh connections, two processes, no miss."""
    client = legacy(gateway.tool_url("one"))
    assert {client.post("ping").status_code for _ in range(40)} == {200}


def test_an_id_may_be_any_string(gateway: RunningGateway) -> None:
    """A tool whose id has a slash and blanks is reached at its encoded path, and prefixed by an escaped id."""
    assert modern(gateway.tool_url("with%2Fslash%20%26%20blank")).text("echo", {"text": "x"}) == "x"
    tools = modern(f"{gateway.url}/mcp").post("tools/list").json()["result"]["tools"]
    name = next(t["name"] for t in tools if t["name"].endswith("__echo") and not t["name"].startswith("one"))
    assert modern(f"{gateway.url}/mcp").text(name, {"text": "y"}) == "y"


def test_tools_come_and_go_while_everything_runs(gateway: RunningGateway) -> None:
    """A tool registered at run time is served by all web processes within seconds; a removed one is gone."""
    assert canalgate(gateway, "tools", "add", "late", yaml.safe_dump(ECHO)).returncode == 0
    client = modern(gateway.tool_url("late"))

    def served_everywhere() -> bool:
        return all("result" in client.call("echo", {"text": "x"}) for _ in range(8))

    wait_until(served_everywhere, timeout=15, description="the new tool to be served")
    again = canalgate(gateway, "tools", "add", "late", yaml.safe_dump(ECHO))
    assert again.returncode == 9
    assert "registered already" in again.stderr
    assert canalgate(gateway, "tools", "remove", "late").returncode == 0
    wait_until(
        lambda: all("error" in client.call("echo", {"text": "x"}) for _ in range(8)),
        description="the removed tool to be gone",
    )


def test_a_stock_celery_producer_gets_its_result(gateway: RunningGateway) -> None:
    """``send_task`` into a tool's queue from an app that knows nothing of us, and a stock ``AsyncResult.get``."""
    app = Celery(broker=redis_url(gateway), backend=redis_url(gateway))
    payload = {
        "tenant": "default",
        "client": "stock",
        "tool": "one",
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "from celery"}},
    }
    result = app.send_task("gateway.invoke", args=[payload], queue="tool.one").get(timeout=10)
    assert result["status"] == "success"
    assert result["result"]["content"][0]["text"] == "from celery"
    app.close()


def test_a_stock_inspection_sees_the_workers(gateway: RunningGateway) -> None:
    """``inspect`` shows both workers, the task, and the queue of every tool."""
    app = Celery(broker=redis_url(gateway), backend=redis_url(gateway))
    inspect = app.control.inspect(timeout=3.0)
    queues: dict[str, Any] = inspect.active_queues() or {}
    assert len(queues) == 2
    for worker_queues in queues.values():
        assert "tool.one" in {queue["name"] for queue in worker_queues}
    registered: dict[str, Any] = inspect.registered() or {}
    assert all("gateway.invoke" in tasks for tasks in registered.values())
    app.close()


def test_a_worker_may_be_pinned_to_some_tools(redis_server: RedisServer, tmp_path: Path) -> None:
    """``-Q tool.a`` serves that tool only: the other's call stays in its queue until a worker for it comes."""
    config = tmp_path / "canalgate.yaml"
    config.write_text(
        yaml.safe_dump({"redis": {"url": redis_server.url(9)}, "tools": {"a": ECHO, "b": ECHO}})
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("CANALGATE_")}
    env |= {"CANALGATE_CONFIG": str(config), "CANALGATE_STATE_DIR": str(tmp_path / "state")}
    from common.domain.invocation import Caller
    from common.gateway import Gateway
    from common.settings import load
    from common.store.client import StoreAddress

    settings = load(config, env)
    command = [sys.executable, "-m", "gateway_web", "worker", "-Q", "tool.a", "-c", "4", "-n", "pinned@%h"]
    worker = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    caller = Caller(tenant="default", client="t")  # type: ignore[arg-type]
    try:
        with Gateway(settings, StoreAddress(url=redis_server.url(9))) as gateway:
            gateway.registry.publish_file(settings.tools)
            wait_until(lambda: gateway.readiness().ready, timeout=30, description="the pinned worker")
            wait_until(lambda: gateway.catalogue.get("b") is not None, description="the catalogue")  # type: ignore[arg-type]
            params = {"name": "echo", "arguments": {"text": "x"}}
            assert gateway.invoke(caller, "a", "tools/call", params).status == "success"  # type: ignore[arg-type]
            with gateway.begin(caller, "b", "tools/call", params, timeout=20) as call:  # type: ignore[arg-type]
                assert call.next(1.0) is None
                assert gateway.client.llen("tool.b") == 1
    finally:
        worker.terminate()
        worker.wait(30)
