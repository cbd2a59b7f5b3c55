"""Still Celery to everyone who looks: stock Celery, stock Flower, and what they may do to a worker."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from celery import Celery

from tests.e2e.celery_bench import ARGS, COMMAND, DB, Bench, register, serves, stop
from tests.support.egress import ANYTHING
from tests.support.servers.process import free_port
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    # Stock Celery's clients leave their sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def worker(bench: Bench) -> Iterator[subprocess.Popen[bytes]]:
    """One worker that serves everything."""
    process = bench.worker("-E")
    wait_until(lambda: serves(bench, "tool.b"), timeout=30, description="the worker to serve all tools")
    yield process
    stop(process)


@pytest.mark.usefixtures("worker")
def test_inspection_shows_what_runs(bench: Bench) -> None:
    """``active`` lists a running call without its arguments; ``stats`` and ``registered`` are Celery's."""
    bench.send("echo", {"text": "warm"}).get(timeout=10)
    result = bench.send("sleep", {"seconds": 20})
    active = wait_until(lambda: bench.inspect("active"), description="the call to be active")
    assert [entry["id"] for entry in active] == [result.id]
    assert active[0]["name"] == "gateway.invoke"
    assert active[0]["delivery_info"]["routing_key"] == "tool.a"
    assert "sleep" not in str(bench.inspect("reserved"))
    stats = bench.inspect("stats")
    assert stats["pool"]["max-concurrency"] == 1000
    assert stats["total"]["gateway.invoke"] >= 1
    assert "gateway.invoke" in bench.inspect("registered")
    bench.app.control.revoke(result.id, terminate=True)


@pytest.mark.usefixtures("worker")
def test_revoke_cancels_the_backend_s_call(bench: Bench) -> None:
    """``revoke(terminate=True)`` reaches the backend, and the caller is told."""
    result = bench.send("cancel_log", {})
    bench.beginning(1)
    bench.app.control.revoke(result.id, terminate=True)
    wait_until(
        lambda: any(e.get("received", {}).get("method") == "notifications/cancelled" for e in bench.heard()),
        description="the backend to hear of it",
    )
    with pytest.raises(Exception, match="cancelled"):
        result.get(timeout=5)


def test_revoked_and_expired_messages_are_never_executed(bench: Bench) -> None:
    """Neither reaches the backend; both get their end."""
    process = bench.worker("-Q", "tool.b")
    wait_until(lambda: serves(bench, "tool.b"), timeout=30, description="the worker")
    try:
        revoked = bench.send("echo", {"text": "revoked"})
        expired = bench.send("echo", {"text": "expired"}, expires=datetime.now(UTC) - timedelta(seconds=5))
        bench.app.control.revoke(revoked.id)
        wait_until(lambda: revoked.id in (bench.inspect("revoked") or []), description="the revocation")
        bench.app.control.add_consumer("tool.a", destination=["w1@here"])
        assert bench.send("echo", {"text": "good"}).get(timeout=10)["status"] == "success"
        for result in (revoked, expired):
            with pytest.raises(Exception, match=r"revoked|taken back|expired"):
                result.get(timeout=5)
        texts = str(bench.heard())
        assert "good" in texts
        assert "revoked" not in texts
        assert "expired" not in texts
    finally:
        stop(process)


@pytest.mark.usefixtures("worker")
def test_queues_are_taken_up_and_dropped_by_remote_control(bench: Bench) -> None:
    """``cancel_consumer`` leaves messages in the list; ``add_consumer`` takes them up at once."""
    bench.app.control.cancel_consumer("tool.a", destination=["w1@here"])
    wait_until(lambda: not serves(bench, "tool.a"), description="the queue to be dropped")
    result = bench.send("echo", {"text": "later"})
    bench.send("echo", {"text": "other"}, tool="b").get(timeout=10)
    assert bench.redis.llen("tool.a") == 1
    bench.app.control.add_consumer("tool.a", destination=["w1@here"])
    assert result.get(timeout=10)["status"] == "success"


@pytest.mark.usefixtures("worker")
def test_remote_control_that_fails_stops_nothing(bench: Bench) -> None:
    """A broken control command resets Celery's mailbox, on a channel of its own; the tools' queues are not its."""
    bench.app.control.broadcast("ping", pattern="(", matcher="pcre")
    wait_until(lambda: bench.inspect("ping"), description="the worker to answer again")
    assert bench.send("echo", {"text": "x"}).get(timeout=10)["status"] == "success"


@pytest.mark.usefixtures("worker")
def test_a_cancelled_queue_stays_cancelled_when_the_registry_changes(bench: Bench) -> None:
    """Only what changed in the registry is acted on: an operator's ``cancel_consumer`` is not undone."""
    bench.app.control.cancel_consumer("tool.a", destination=["w1@here"])
    wait_until(lambda: not serves(bench, "tool.a"), description="the queue to be dropped")
    register_more(bench, "c")
    wait_until(lambda: serves(bench, "tool.c"), description="the new tool's queue")
    assert not serves(bench, "tool.a")


def register_more(bench: Bench, tool: str) -> None:
    """Register one more tool at run time."""
    from common.domain.ids import ToolId
    from common.domain.tool import StdioTransport, Tool
    from common.registry.registry import Registry
    from common.store.client import StoreAddress, connect
    from common.store.keys import Keys

    with connect(StoreAddress(url=bench.server.url(DB))) as client:
        transport = StdioTransport(command=COMMAND, args=tuple(ARGS))
        Registry(client, Keys(), ANYTHING).put(Tool(id=ToolId(tool), transport=transport))


def test_every_start_on_a_filled_registry_serves(bench: Bench) -> None:
    """Whatever the order in which Celery opens its channels: five starts, five workers that work."""
    for round_number in range(5):
        process = bench.worker(name=f"r{round_number}")
        name = f"r{round_number}"
        wait_until(lambda name=name: serves(bench, "tool.a", name), timeout=30, description="the worker")
        assert bench.send("echo", {"text": "x"}).get(timeout=10)["status"] == "success"
        stop(process)


def test_concurrency_bounds_the_calls_in_flight_and_the_rest_stays_in_the_queue(bench: Bench) -> None:
    """``-c 3``: three begin, the list holds exactly the others, which is what an autoscaler reads."""
    process = bench.worker("-c", "3")
    try:
        wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
        results = [bench.send("sleep", {"seconds": 1}) for _ in range(8)]
        wait_until(lambda: len(bench.inspect("active") or []) == 3, description="three to begin")
        assert bench.redis.llen("tool.a") == 5
        assert [result.get(timeout=20)["status"] for result in results] == ["success"] * 8
        assert bench.redis.llen("tool.a") == 0
    finally:
        stop(process)


@pytest.mark.parametrize(
    ("ask", "in_flight"),
    [
        (lambda bench, process: process.terminate(), "answered"),
        (lambda bench, process: bench.app.control.shutdown(), "answered"),
        (lambda bench, process: process.send_signal(signal.SIGQUIT), "cut off"),
    ],
    ids=["SIGTERM", "shutdown", "SIGQUIT"],
)
def test_shutdown_answers_everybody(
    bench: Bench, ask: Callable[[Bench, subprocess.Popen[bytes]], None], in_flight: str
) -> None:
    """A warm stop lets the calls end, a cold one cuts them off; both leave nothing unacknowledged and no child."""
    process = bench.worker()
    wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
    results = [bench.send("sleep", {"seconds": 2}) for _ in range(20)]
    bench.beginning(20)
    children = psutil.Process(process.pid).children(recursive=True)
    ask(bench, process)
    process.wait(30)
    for result in results:
        if in_flight == "answered":
            assert result.get(timeout=1)["status"] == "success"
        else:
            with pytest.raises(Exception, match=r"."):
                result.get(timeout=1)
    assert not [key for key in bench.redis.keys("*unacked*") if key != b"unacked_mutex"]
    wait_until(lambda: not [c for c in children if c.is_running()], description="the children to go")


def test_a_worker_survives_redis_again_and_again(tmp_path: Path) -> None:
    """Five restarts in a row, calls in flight each time: the same process goes on, and every call has one end."""
    from tests.support.restartable_redis import RestartableRedis

    with RestartableRedis(tmp_path) as redis:
        tool = {"command": COMMAND, "args": ARGS, "env": {"ECHO_LOG": str(tmp_path / "heard.jsonl")}}
        tenants = {"allow_unlisted": True}
        config = {"redis": {"url": redis.url}, "tenants": tenants, "tools": {"a": tool}}
        (tmp_path / "canalgate.yaml").write_text(yaml.safe_dump(config))
        register(tmp_path / "canalgate.yaml", redis.url)
        broker = "redis+socket://" + redis.url.removeprefix("unix://").replace("?db=", "?virtual_host=")
        app = Celery(broker=broker, backend=broker)
        bench = Bench(redis, tmp_path, app, redis.client(), [])  # type: ignore[arg-type]
        process = bench.worker()
        try:
            wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
            for round_number in range(1, 6):
                result = bench.send("sleep", {"seconds": 1.5}, ignore_result=True)
                bench.beginning(2 * round_number - 1)
                redis.restart()
                record = wait_until(
                    lambda task=result.id: safely(lambda: redis.client().get(f"celery-task-meta-{task}")),
                    timeout=15,
                    description="the result",
                )
                assert b'"success"' in record
                again = wait_until(lambda: sent(bench), timeout=10, description="a message to be taken")
                record = wait_until(
                    lambda task=again: safely(lambda: redis.client().get(f"celery-task-meta-{task}")),
                    timeout=5,
                    description="the next call",
                )
                assert process.poll() is None
            calls = [e for e in bench.heard() if e.get("received", {}).get("method") == "tools/call"]
            assert len(calls) == 10
        finally:
            stop(process)
            bench.close()


def sent(bench: Bench) -> str | None:
    """Send a quick call; None while the stock producer is still finding its way back."""
    try:
        return str(bench.send("echo", {"text": "x"}, ignore_result=True).id)
    except Exception:
        return None


def safely(look: Callable[[], Any]) -> Any:
    """A look that may fail while Redis is away."""
    try:
        return look()
    except Exception:
        return None


@pytest.fixture
def flower(bench: Bench, worker: subprocess.Popen[bytes]) -> Iterator[str]:
    """A stock Flower beside the worker; its API's URL."""
    port = free_port()
    env = bench.env | {"FLOWER_UNAUTHENTICATED_API": "true"}
    process = bench.celery(["flower", f"--port={port}", "--address=127.0.0.1"], env, "flower")
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return "w1@here" in httpx.get(f"{url}/api/workers?refresh=1", timeout=20).json()
        except (httpx.HTTPError, ValueError):
            return False

    wait_until(up, timeout=40, description="Flower to see the worker", interval=0.3)
    yield url
    process.terminate()
    process.wait(20)


def test_flower_shows_workers_tasks_and_queues_but_no_arguments(bench: Bench, flower: str) -> None:
    """States, runtimes and queue lengths are there; arguments and results nowhere."""
    secret = "a-secret-argument"
    bench.send("echo", {"text": secret}).get(timeout=10)
    bench.send("fail", {}).get(timeout=10)

    def tasks() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{flower}/api/tasks", timeout=5).json()
        return found if len([t for t in found.values() if t["state"] == "SUCCESS"]) >= 2 else {}

    shown = wait_until(tasks, timeout=15, description="both tasks", interval=0.2)
    for task in shown.values():
        assert task["name"] == "gateway.invoke"
        assert task["worker"] == "w1@here"
        assert task["runtime"] >= 0
    assert secret not in httpx.get(f"{flower}/api/tasks", timeout=5).text
    assert secret not in httpx.get(f"{flower}/tasks", timeout=5).text
    bench.app.control.cancel_consumer("tool.b", destination=["w1@here"])
    wait_until(lambda: not serves(bench, "tool.b"), description="the queue to be dropped")
    lengths = httpx.get(f"{flower}/api/queues/length", timeout=5).json()["active_queues"]
    assert {"tool.a"} <= {queue["name"] for queue in lengths}


def test_without_events_nothing_is_sent(bench: Bench) -> None:
    """``worker.events: false`` publishes no task events."""
    env = bench.env | {"CANALGATE_WORKER__EVENTS": "false"}
    process = bench.celery(["worker", "-n", "w1@here", "--without-mingle"], env, "quiet")
    try:
        wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
        with bench.redis.pubsub() as listener:
            listener.psubscribe("*celeryev*")
            bench.send("echo", {"text": "x"}).get(timeout=10)
            end = time.monotonic() + 1.0
            kinds = []
            while time.monotonic() < end:
                message = listener.get_message(timeout=0.1)
                if message and message["type"] == "pmessage":
                    kinds.append(message["channel"])
        assert not [kind for kind in kinds if b"task" in kind]
    finally:
        stop(process)


@contextmanager
def events_of(bench: Bench) -> Iterator[list[dict[str, Any]]]:
    """The task events that stock Celery's receiver hears, as they come in."""
    heard: list[dict[str, Any]] = []
    listening = threading.Event()
    with bench.app.connection_for_read() as broker:
        receiver = bench.app.events.Receiver(broker, handlers={"*": heard.append})
        receiver.on_consume_ready = lambda *_, **__: listening.set()
        thread = threading.Thread(target=lambda: deque(receiver.consume(limit=None), maxlen=0))
        thread.start()
        assert listening.wait(10)
        try:
            yield heard
        finally:
            receiver.should_stop = True
            thread.join()


def kinds(heard: list[dict[str, Any]], task_id: str) -> list[str]:
    """What was told of a task, in order."""
    return [event["type"] for event in heard if event.get("uuid") == task_id]


COURSE = ["task-received", "task-started", "task-succeeded"]


def test_events_are_switched_by_remote_control(bench: Bench) -> None:
    """``enable_events`` and ``disable_events`` hold from the next call on."""
    env = bench.env | {"CANALGATE_WORKER__EVENTS": "false"}
    process = bench.celery(["worker", "-n", "w1@here", "--without-mingle"], env, "quiet")
    try:
        wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
        bench.send("echo", {"text": "warm"}).get(timeout=10)
        with events_of(bench) as heard:
            bench.app.control.enable_events(destination=["w1@here"], reply=True, timeout=2.0)
            told = [bench.send("echo", {"text": "x"}, ignore_result=True) for _ in range(50)]
            for result in told:
                wait_until(lambda task=result.id: kinds(heard, task) == COURSE, description="its events")
            bench.app.control.disable_events(destination=["w1@here"], reply=True, timeout=2.0)
            quiet = bench.send("echo", {"text": "x"})
            quiet.get(timeout=10)
            bench.app.control.enable_events(destination=["w1@here"], reply=True, timeout=2.0)
            last = bench.send("echo", {"text": "x"}, ignore_result=True)
            wait_until(lambda: kinds(heard, last.id) == COURSE, description="the events of the last")
            assert kinds(heard, quiet.id) == []
    finally:
        stop(process)


def test_how_the_last_calls_end_is_told(bench: Bench) -> None:
    """A worker that drains has left Celery's main loop already; Flower still learns how its calls ended."""
    process = bench.worker("-E")
    wait_until(lambda: serves(bench, "tool.a"), timeout=30, description="the worker")
    with events_of(bench) as heard:
        results = [bench.send("sleep", {"seconds": 1}, ignore_result=True) for _ in range(3)]
        bench.beginning(3)
        assert stop(process) == 0
        for result in results:
            wait_until(lambda task=result.id: kinds(heard, task) == COURSE, description="its events")
