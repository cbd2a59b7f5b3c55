"""``celery multi``: workers in the background with pid files and logs, as Celery's own documentation starts them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.celery_bench import Bench, serves
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NAMES = ("one", "two")


class Multi:
    """The command, for two workers of which each serves one tool."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __call__(self, verb: str) -> None:
        """Run ``celery multi <verb>``."""
        home = self._bench.home
        words = [sys.executable, "-m", "celery", "-A", "gateway_worker.app", "multi", verb]
        words += [f"{name}@here" for name in NAMES]
        words += [f"--pidfile={home}/%n.pid", f"--logfile={home}/%n.log", "--without-mingle"]
        words += ["-Q:one@here", "tool.a", "-Q:two@here", "tool.b", "-c", "7"]
        done = subprocess.run(
            words, env=self._bench.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def pid(self, name: str) -> int:
        """As the pid file says, once it is there."""
        file = self._bench.home / f"{name}.pid"
        return int(wait_until(lambda: file.exists() and file.read_text().strip(), description=f"{file}"))

    def log(self, name: str) -> str:
        """What a worker wrote."""
        file: Path = self._bench.home / f"{name}.log"
        return file.read_text() if file.exists() else ""

    def ready(self) -> None:
        """Wait until each worker serves its tool and no other."""
        for name, tool, other in (("one", "a", "b"), ("two", "b", "a")):
            wait_until(
                lambda name=name, tool=tool: serves(self._bench, f"tool.{tool}", name),  # type: ignore[misc]
                timeout=40,
                description=f"worker {name}",
            )
            assert not serves(self._bench, f"tool.{other}", name)


@pytest.fixture
def multi(bench: Bench) -> Iterator[Multi]:
    """Nothing started yet; whatever still runs at the end is ended by its pid."""
    multi = Multi(bench)
    yield multi
    for file in bench.home.glob("*.pid"):
        if psutil.pid_exists(pid := int(file.read_text())):
            psutil.Process(pid).kill()


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def answered(bench: Bench) -> list[str]:
    """One call to each tool: the processes of the backends that answered."""
    results = [bench.send("pid", {}, tool=tool) for tool in ("a", "b")]
    return [result.get(timeout=15)["result"]["content"][0]["text"] for result in results]


def test_start_restart_and_stop(bench: Bench, multi: Multi) -> None:
    """Two workers with their own files serve; after a restart two others do; a stop lets what runs end."""
    multi("start")
    multi.ready()
    before = {name: multi.pid(name) for name in NAMES}
    backends = answered(bench)
    assert len({*before.values(), *backends}) == 4
    assert bench.inspect("stats", "one")["pool"]["max-concurrency"] == 7
    assert all("draining" not in multi.log(name) and multi.log(name) for name in NAMES)

    multi("restart")
    wait_until(lambda: all(map(gone, before.values())), timeout=30, description="the old workers to end")
    multi.ready()
    after = {name: multi.pid(name) for name in NAMES}
    assert not set(before.values()) & set(after.values())
    assert not set(backends) & set(answered(bench))

    running = bench.send("sleep", {"seconds": 1.5})
    bench.beginning(5)
    multi("stop")
    assert running.get(timeout=20)["status"] == "success"
    wait_until(lambda: all(map(gone, after.values())), timeout=30, description="the workers to end")
    assert not list(bench.home.glob("*.pid"))
    assert not [key for key in bench.redis.keys("*unacked*") if key != b"unacked_mutex"]
    assert not bench.redis.zcard("canalgate:nodes")
