"""A cluster on one machine, of plain processes: two web programs and three workers on one Redis.

``python examples/cluster/run.py`` starts it, tells where it serves, and stops all of it with Ctrl-C. Redis is the one
that CANALGATE_REDIS__URL names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
CANALGATE = [sys.executable, "-c", "from gateway_web.cli import main; main()"]
WORKERS = ("worker-1", "worker-2", "worker-3")
PATIENCE = 60.0


def start(*words: str) -> subprocess.Popen[bytes]:
    """One program of the gateway."""
    return subprocess.Popen([*CANALGATE, *words, "--config", str(HERE / "canalgate.yaml")])


def is_ready(port: int) -> bool:
    """Whether the web program there serves calls."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def main() -> int:
    """Start all, wait, and run until a signal."""
    if "CANALGATE_REDIS__URL" not in os.environ:
        print("name a Redis, such as CANALGATE_REDIS__URL=redis://127.0.0.1:6379/0", file=sys.stderr)
        return 2
    ports = [int(port) for port in os.environ.get("CLUSTER_PORTS", "8081,8082").split(",")]
    programs = [start("web", "--port", str(port)) for port in ports]
    for name in WORKERS:
        programs.append(start("worker", "-n", f"{name}@%h"))
        print(f"{name} {programs[-1].pid}", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        end = time.monotonic() + PATIENCE
        while not all(is_ready(port) for port in ports):
            if time.monotonic() > end:
                print("the cluster did not start", file=sys.stderr)
                return 1
            time.sleep(0.2)
        print("ready", *(f"http://127.0.0.1:{port}/mcp" for port in ports), flush=True)
        for program in programs[: len(ports)]:
            program.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            program.wait()
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
