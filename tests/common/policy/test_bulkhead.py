"""Work of others, bounded in time and number."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.policy.bulkhead import Bulkhead, NoRoom
from tests.support.wait import wait_until


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("native", [False, True])
def test_it_gives_what_the_work_gives(native: bool) -> None:
    """Or raises what it raises; nothing is under way then."""
    bulkhead = Bulkhead(2, native=native)

    def broken() -> None:
        raise KeyError("x")

    assert bulkhead.run(lambda: 5, timeout=5, tenant="t") == 5
    with pytest.raises(KeyError):
        bulkhead.run(broken, timeout=5, tenant="t")
    wait_until(lambda: bulkhead.running == 0, description="all is over")


def test_what_takes_too_long_is_left_alone(go_on: threading.Event) -> None:
    """It keeps its place until it ends."""
    bulkhead = Bulkhead(2, native=False)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        bulkhead.run(go_on.wait, timeout=0.05, tenant="t")
    assert time.monotonic() - began < 2
    assert bulkhead.running == 1
    go_on.set()
    wait_until(lambda: bulkhead.running == 0, description="it has ended")


def test_what_hangs_never_takes_more_than_its_room(go_on: threading.Event) -> None:
    """Whoever comes then is told at once, and has taken nothing."""
    bulkhead = Bulkhead(4, native=False)
    before = threading.active_count()
    with ThreadPoolExecutor(4) as pool:
        tried = [pool.submit(bulkhead.run, go_on.wait, timeout=0.2, tenant=f"t{n}") for n in range(4)]
        assert all(isinstance(future.exception(10), TimeoutError) for future in tried)
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(NoRoom):
                bulkhead.run(go_on.wait, timeout=5, tenant="another")
            assert time.monotonic() - began < 1
    assert threading.active_count() - before <= 4


def test_one_tenant_has_half_of_the_room(go_on: threading.Event) -> None:
    """The others have the rest."""
    bulkhead = Bulkhead(4, native=False)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            bulkhead.run(go_on.wait, timeout=0.01, tenant="greedy")
    with pytest.raises(NoRoom):
        bulkhead.run(lambda: 1, timeout=1, tenant="greedy")
    assert bulkhead.run(lambda: 1, timeout=5, tenant="modest") == 1


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import time, gevent
from common.policy.bulkhead import Bulkhead, NoRoom, patched
assert patched()
sleep = monkey.get_original("time", "sleep")
ticks = []
def tick():
    while True:
        ticks.append(1)
        gevent.sleep(0.005)
gevent.spawn(tick)
for native, work in ((True, lambda: sleep(1)), (False, lambda: gevent.sleep(1))):
    bulkhead = Bulkhead(2, native=native)
    assert bulkhead.run(lambda: 7, timeout=5, tenant="t") == 7
    del ticks[:]
    began = time.monotonic()
    try:
        bulkhead.run(work, timeout=0.3, tenant="a")
    except TimeoutError:
        took = time.monotonic() - began
    assert 0.2 < took < 0.9, took
    assert len(ticks) > 10, ticks
    try:
        bulkhead.run(work, timeout=0.3, tenant="a")
    except NoRoom:
        print("bounded", native)
"""


def test_greenlets_go_on_while_something_blocks() -> None:
    """Under gevent, as the web processes are: work that never waits for gevent has a thread of the system."""
    done = subprocess.run(
        [sys.executable, "-c", UNDER_GEVENT], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "bounded True\nbounded False\n", done.stderr
