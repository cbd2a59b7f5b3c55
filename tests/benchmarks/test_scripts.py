"""Every script of the queue measures what it names: one short run each, on real processes.

The first stands for all with `make e2e`; `make bench-smoke` runs each.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.targets import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(180)]


def smoke(name: str, folder: Path) -> dict[str, Any]:
    """Run a script for a moment; its result file. It has ended well only if it saw no error."""
    output = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--smoke", "--output", str(output)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found: dict[str, Any] = orjson.loads(output.read_bytes())
    assert found["errors"] == {}
    return found


def test_the_data_plane_is_compared_with_stock_celery(tmp_path: Path) -> None:
    """Four workers answered the same load, and the like of ours costs less than stock's."""
    rows = {row["worker"]: row for row in smoke("data_plane", tmp_path)["rows"]}
    assert list(rows) == ["stock, threads", "stock, prefork", "canalgate", "canalgate, stdio tool"]
    for row in rows.values():
        assert row["calls"] > 64
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["worker_us"] > 0
    assert rows["canalgate"]["rate"] > 2 * rows["stock, threads"]["rate"]
    assert rows["canalgate"]["worker_us"] < rows["stock, threads"]["worker_us"] / 2


@pytest.mark.bench
def test_calls_in_flight_are_at_the_backend_all_at_once(tmp_path: Path) -> None:
    """As many as there are callers, each for its second, and all answered."""
    (row,) = smoke("in_flight", tmp_path)["rows"]
    assert row["answered"] == row["calls"] >= row["in_flight"] == 50
    assert row["peak"] >= 45
    assert row["p50_s"] >= 1.0
    assert row["peak_mib"] >= row["idle_mib"] > 20


@pytest.mark.bench
def test_a_gateway_of_many_tools_stands_beside_one_of_one(tmp_path: Path) -> None:
    """The rows differ in what is registered, called and free, and each has its cost by process."""
    rows = smoke("many_tools", tmp_path)["rows"]
    assert [(row["registered"], row["called"]) for row in rows[:3]] == [(1, 1), (20, 1), (20, 5)]
    assert [(row["registered"], row["called"], row["slots"]) for row in rows[3:]] == [(1, 1, 8), (20, 5, 8)]
    assert all(row["slots"] > 16 for row in rows[:3])
    for row in rows:
        assert min(row["web_us"], row["worker_us"]) > 0
        assert row["total_us"] > 0
    assert rows[0]["to_one"] == rows[3]["to_one"] == 1.0


@pytest.mark.bench
def test_the_slots_bound_the_throughput_of_workers(tmp_path: Path) -> None:
    """No worker runs more than its slots, the rest is seen in the queue, and a second worker helps."""
    one, two = smoke("two_workers", tmp_path)["rows"]
    assert (one["slots"], two["slots"]) == (32, 64)
    assert one["most_run"] == two["most_run"] == 32
    assert one["rate"] <= one["ideal"]
    assert one["queued"] > two["queued"] > 0
    assert one["samples"] > 10
    assert two["to_one"] > 1.5


@pytest.mark.bench
def test_traced_calls_are_compared_with_others(tmp_path: Path) -> None:
    """Beside each other, with the CPU of both programs."""
    rows = smoke("tracing", tmp_path)["rows"]
    assert [row["tracing"] for row in rows] == ["off", "all calls"]
    for row in rows:
        assert min(row["web_us"], row["worker_us"], row["rate"]) > 0


@pytest.mark.bench
def test_task_events_and_flower_are_compared_with_none(tmp_path: Path) -> None:
    """Beside each other; each was called."""
    rows = smoke("events", tmp_path)["rows"]
    assert [row["events"] for row in rows] == ["off", "on", "on, and Flower"]
    assert min(row["rate"] for row in rows) > 0


@pytest.mark.bench
def test_web_classes_are_called_and_hold_streams(tmp_path: Path) -> None:
    """Each class answered, and held the streams asked for."""
    rows = smoke("web_classes", tmp_path)["rows"]
    assert [row["web"] for row in rows] == ["ours, on gevent", "gthread, 64 threads"]
    for row in rows:
        assert row["rate_16"] > 0
        assert row["cpu_16"] > 0
        assert row["opened"] == row["completed"] == 20
        assert row["failed_beside"] == 0


@pytest.mark.bench
def test_recognising_callers_is_compared_with_not_doing_so(tmp_path: Path) -> None:
    """Each way let its callers in, and what is remembered costs little."""
    rows = {row["who"]: row for row in smoke("identity", tmp_path)["rows"]}
    assert len(rows) == 7
    assert rows["none"]["to_none"] == 1.0
    assert all(row["rate"] > 0 for row in rows.values())
    assert rows["token"]["web_us"] < rows["token, looked at each time"]["web_us"]
