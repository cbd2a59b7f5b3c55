"""The queue of ended spans: bounded, never waited for, and told of rarely where it loses some."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import structlog

from common.telemetry.context import TraceContext
from common.telemetry.export import TELL_EVERY, SpanQueue
from common.telemetry.spans import Kind, Span
from tests.support.otlp_collector import collector
from tests.support.wait import wait_until

PARENT = TraceContext(5, 6, sampled=True, state="a=1")


class Sent:
    """Keeps what it is given; refuses while it is ``down``, and takes nothing before it may ``go``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.batches: list[int] = []
        self.down = False
        self.closed = False
        self.go = threading.Event()
        self.go.set()

    def send(self, spans: Sequence[Span]) -> bool:
        """As the queue's thread calls it."""
        self.go.wait(10)
        if self.down:
            raise ConnectionError("down")
        self.spans += spans
        self.batches.append(len(spans))
        return True

    def close(self) -> None:
        """As the queue's thread calls it."""
        self.closed = True


def queue(sent: Sent, **options: Any) -> SpanQueue:
    return SpanQueue(lambda: sent, **{"most": 100, "batch": 10, "interval": 0.02, **options})


def end(waiting: SpanQueue, count: int = 1) -> None:
    for _ in range(count):
        Span(
            waiting.put, "x", Kind.CLIENT, TraceContext(5, 7, sampled=True, state="a=1"), PARENT, {"n": 1}
        ).end()


def test_spans_go_out_together() -> None:
    """Without waiting for the interval once there are enough."""
    sent = Sent()
    end(queue(sent, interval=3600, batch=10), 10)
    wait_until(lambda: sent.batches == [10], description="the batch")


def test_nothing_waits_for_a_collector_that_hangs() -> None:
    """What finds no room is dropped and counted; what was taken goes out when it goes on."""
    sent = Sent()
    sent.go.clear()
    waiting = queue(sent)
    began = time.monotonic()
    end(waiting, 500)
    assert time.monotonic() - began < 1
    assert 380 <= waiting.dropped <= 400
    sent.go.set()
    wait_until(
        lambda: len(sent.spans) + waiting.dropped >= 500 or not waiting.dropped, description="the rest"
    )


def test_what_is_lost_is_told_of_once_a_minute() -> None:
    """With how many."""
    sent, now = Sent(), 1000.0
    sent.down = True
    waiting = queue(sent, now=lambda: now)
    with structlog.testing.capture_logs() as lines:

        def told() -> list[dict[str, Any]]:
            return [dict(line) for line in lines if line["event"] == "spans_lost"]

        end(waiting, 3)
        wait_until(told, description="the first line")
        end(waiting, 5)
        wait_until(lambda: waiting.lost == 5, description="more that are lost")
        assert len(told()) == 1
        now += TELL_EVERY
        end(waiting, 1)
        wait_until(lambda: len(told()) == 2, description="the second line")
    assert [line["not_taken"] for line in told()] == [3, 6]


def test_a_process_that_ends_sends_what_is_left_and_waits_no_longer_than_that() -> None:
    """Nor for ever."""
    sent = Sent()
    waiting = queue(sent, interval=3600)
    end(waiting, 3)
    waiting.close()
    assert len(sent.spans) == 3
    assert sent.closed
    stuck, hangs = Sent(), queue(Sent())
    stuck.go.clear()
    hangs = queue(stuck)
    end(hangs)
    began = time.monotonic()
    hangs.close(timeout=0.1)
    assert time.monotonic() - began < 2
    stuck.go.set()


FORKS = """
import os, sys
from common.settings.telemetry import TelemetrySettings
from common.domain.egress import STRICT
from common.telemetry.start import start_tracing
from common.telemetry.spans import Kind
tracer = start_tracing(TelemetrySettings(exporter=sys.argv[2], endpoint=sys.argv[1]), STRICT, "web")

def say(name):
    tracer.span(name, Kind.SERVER, tracer.sampled(None), None, {}).end()

say("before")
if os.fork() == 0:
    say("child")
    sys.exit()
os.wait()
say("after")
"""


@pytest.mark.parametrize("gevent", [False, True], ids=["threads", "gevent"])
@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_each_side_of_a_fork_sends_its_own(exporter: str, gevent: bool) -> None:
    """Once each, also of a process that forks after it has begun to send, as one that preloads its application may."""
    patch = "from gevent import monkey; monkey.patch_all()\n" if gevent else ""
    with collector() as found:
        url = found.http_url if exporter == "otlp_http" else found.grpc_url
        command = [sys.executable, "-c", patch + textwrap.dedent(FORKS), url, exporter]
        done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
        assert done.returncode == 0, done.stderr
        assert sorted(span.name for span in found.spans) == ["after", "before", "child"], done.stderr
    assert "Traceback" not in done.stderr


PROGRAM = """
import sys
from common.settings.telemetry import TelemetrySettings
from common.domain.egress import STRICT
from common.telemetry.start import start_tracing
from common.telemetry.spans import Kind
tracer = start_tracing(TelemetrySettings(exporter="console"), STRICT, "worker")
tracer.span("said", Kind.SERVER, tracer.sampled(None), None, {}).end()
"""


def test_the_console_is_standard_error() -> None:
    """A line for each span; standard output is the program's own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert '"name": "said"' in done.stderr
    assert done.stdout.count("said") == 0
