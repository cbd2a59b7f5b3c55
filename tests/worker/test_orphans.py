"""kill -9 of a worker leaves no child of it, however stubborn."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from common.processes import is_running
from tests.support.servers.process import running
from tests.support.wait import wait_until


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSEGV])
def test_no_child_outlives_its_worker(death: signal.Signals, tmp_path: Path) -> None:
    """Neither one that behaves, nor one that ignores the end of its input and SIGTERM, nor a grandchild."""
    pid_file = tmp_path / "grandchild"
    modes = ["echo", "ignores_sigterm", f"spawns_grandchild,--pid-file,{pid_file}"]
    command = [sys.executable, "-m", "tests.worker.orphans", *modes]
    with running(command, log=tmp_path / "log") as worker:
        pids = [int(pid) for pid in worker.line_beginning("pids ").split()[1:]]
        pids.append(int(pid_file.read_text()))
        assert all(map(is_running, pids))
        worker.popen.send_signal(death)
        worker.popen.wait(5)
        wait_until(lambda: not any(map(is_running, pids)), timeout=5, description="all children to end")
