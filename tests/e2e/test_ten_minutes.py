"""The README's way from an ``mcp.json`` to the audit, word for word, with Flower beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.docs.test_docs import commands, example, run
from tests.support.servers.gateway import START_TIMEOUT
from tests.support.servers.process import free_port, running
from tests.support.wait import wait_until

SERVER = {"command": sys.executable, "args": ["-m", "gateway_worker.demo_server"]}
ROWS = {"draw": "1", "start": "0", "length": "9", "order[0][column]": "0", "order[0][dir]": "asc"}


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_a_team_has_a_key_a_quota_and_an_eye_on_it(tmp_path: Path) -> None:
    """Each command ends well, and what was done is seen: in the client's file, in Flower, in the audit."""
    flower = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    env |= {"CANALGATE_STATE_DIR": str(tmp_path / "s"), "CANALGATE_WEB__PORT": str(free_port())}
    env |= {"CANALGATE_FLOWER__PORT": str(flower)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    (tmp_path / "mcp.json").write_text(orjson.dumps({"mcpServers": {"notes": SERVER}}).decode())
    (taken,), (*checks, up) = commands(example("team import")), commands(example("team up"))
    assert run(taken, tmp_path, env).returncode == 0
    with (tmp_path / "canalgate.yaml").open("a") as settings:
        settings.write(example("team.yaml"))
    for check in checks:
        assert run(check, tmp_path, env).returncode == 0
    with running(up, log=tmp_path / "up.log", env=env, cwd=tmp_path) as process:
        process.line_beginning("ready", timeout=START_TIMEOUT)
        told = typed(example("team"), tmp_path, env)
        (password,) = re.findall(r"password: the token in (\S+)\)", (tmp_path / "up.log").read_text())
        call = shown_call(f"http://127.0.0.1:{flower}", Path(password).read_text().strip())
    assert "42.0" in told
    for kind in ("api_key_issued", "tenant_changed", "invocation_complete", "tool_drained"):
        assert kind in told
    assert (call["canalgate_tenant"], call["canalgate_client"]) == ("team-a", "laptop")
    entry = orjson.loads((tmp_path / ".mcp.json").read_bytes())["mcpServers"]["canalgate"]
    assert entry["headers"] == {"Authorization": "Bearer ${CANALGATE_TOKEN}"}


def typed(block: str, directory: Path, env: dict[str, str]) -> str:
    """What a shell prints that is given these lines; each must end well."""
    done = subprocess.run(
        ["bash", "-euc", block],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shown_call(flower: str, password: str) -> dict[str, Any]:
    """The first call that Flower's page of tasks has."""
    asked = ROWS | {"columns[0][data]": "received"}

    def found() -> list[dict[str, Any]]:
        answer = httpx.post(f"{flower}/tasks/datatable", data=asked, auth=("anybody", password), timeout=30)
        rows: list[dict[str, Any]] = answer.json()["data"]
        return [row for row in rows if row["canalgate_tenant"]]

    return wait_until(found, timeout=20, description="the call in Flower")[0]
