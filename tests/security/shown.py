"""What a gateway shows to those who run it: pages, answers, outputs, traces and the environments of its processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil

from tests.support.servers.gateway import RunningGateway, gateway_command

VERBS = (
    *("status", "doctor", "export", "config check", "sessions", "audit --json -n 1000"),
    *("tools show local", "tools show remote --json", "tools show idle --json"),
)
"""Verbs that have something to show."""
STREAMS = ("/audit/stream",)


def admin_answers(gateway: RunningGateway, token: str) -> bytes:
    """All that the admin API has to show, by its own document."""
    found = []
    with httpx.Client(
        base_url=f"{gateway.url}/admin/v1", headers={"Authorization": f"Bearer {token}"}
    ) as http:
        document = http.get("/openapi.json")
        for path, operations in document.json()["paths"].items():
            short = path.removeprefix("/admin/v1")
            if "get" not in operations or short.endswith(STREAMS):
                continue
            for tool in ("local", "remote", "idle", "static"):
                answer = http.get(short.replace("{tool}", tool).replace("{tenant}", "t"), timeout=30)
                assert answer.status_code < 500, (path, answer.text)
                found.append(answer.content)
                if "{tool}" not in short:
                    break
        wrong = http.get("/tools", headers={"Authorization": f"Bearer {token}x"})
        assert wrong.status_code == 401
        found.append(wrong.content)
    return b"\n".join(found)


def outputs(gateway: RunningGateway) -> bytes:
    """What the verbs of the command line print, beside the gateway."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    env["CANALGATE_STATE_DIR"] = str(gateway.config.parent / "state")
    found = []
    for words in VERBS:
        command = [*gateway_command(), *words.split(), "--config", str(gateway.config)]
        done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        assert done.returncode in {0, 1}, (words, done.stdout, done.stderr)
        found += [words.encode(), done.stdout, done.stderr]
    return b"\n".join(found)


def metrics(gateway: RunningGateway, token: str) -> bytes:
    """The page for Prometheus."""
    answer = httpx.get(f"{gateway.url}/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.content


def environments(pid: int, *, tools: bool) -> Mapping[int, bytes]:
    """Those of the gateway's processes, or of its tools' (whatever is below a worker's child guard)."""
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        try:
            is_tool = any(str(word).startswith(str(SERVERS)) for word in process.cmdline())
            if is_tool is tools:
                found[process.pid] = Path(f"/proc/{process.pid}/environ").read_bytes()
        except (psutil.Error, OSError):
            continue
    return found


SERVERS = Path(__file__).resolve().parents[1] / "support" / "servers"
