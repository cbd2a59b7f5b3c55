"""Redis restarts, breaks, loses answers and is slow, and poison lies in the queue, while calls run.

In all of it: no call is lost or run twice, no slot stays taken, and the processes are the same ones afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import orjson
import pytest

from common.calls.contract import task_message
from common.calls.dead_letters import Reason
from common.calls.head import Head
from common.domain.rules import Retry
from common.store.keys import RESULT_PREFIX
from common.store.scripts import script
from gateway_worker.message import largest_message
from tests.e2e.fault_rig import DEADLINE, MAX_BODY, QUEUE, Load, Rig, running_rig
from tests.support.backends import invocation
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    # Stock Celery's clients leave their sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

UNREADABLE = [
    (b"not JSON", Reason.NOT_JSON),
    (b"\xff\xfe\x00", Reason.NOT_JSON),
    (b"[1, 2, 3]", Reason.NOT_CELERY),
    (b'{"body": "e30=", "headers": {}, "properties": {}}', Reason.NOT_CELERY),
    (
        b'{"headers": {"id": "p", "task": "no.such.task"}, "properties": {}, "body": "W10="}',
        Reason.UNKNOWN_TASK,
    ),
    (b'{"headers": {"id": "q", "task": "gateway.invoke"}, "properties": {}, "body": "x"}', Reason.BAD_BODY),
    (b"x" * (largest_message(MAX_BODY) + 1), Reason.OVERSIZED),
]


@pytest.fixture(scope="module")
def the_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One for all: it has to survive every fault, one after the other."""
    with running_rig(tmp_path_factory.mktemp("f")) as rig:
        yield rig


@pytest.fixture
def rig(the_rig: Rig) -> Iterator[Rig]:
    """Undisturbed before; afterwards at rest, with the same worker and web processes."""
    before = the_rig.worker.popen.pid, the_rig.web.popen.pid
    wait_until(the_rig.works, timeout=15, description="a call to be answered")
    yield the_rig
    the_rig.require_rest()
    assert (the_rig.worker.popen.pid, the_rig.web.popen.pid) == before


def way(rig: Rig, side: str) -> TcpProxy:
    """The way of one of the two processes."""
    return rig.web_way if side == "web" else rig.worker_way


def sprung(proxy: TcpProxy, count: int = 1) -> None:
    """Wait until the fault has happened."""
    wait_until(lambda: proxy.sprung >= count, description="the fault")
    proxy.sprung = 0


def test_redis_restarts_under_load(rig: Rig) -> None:
    """Twice killed and started: meanwhile callers are refused, or told that nobody knows; then all goes on."""
    with Load(rig) as load:
        for _ in range(2):
            rig.redis.restart()
            load.more(20)
    load.require_each_once("STORE_UNAVAILABLE")
    assert rig.control()["in-flight"] == 0


@pytest.mark.parametrize("keep", [0, 20, 200])
def test_the_web_process_is_cut_off_in_the_middle_of_a_call(rig: Rig, keep: int) -> None:
    """What did not reach Redis whole is never run, and its caller is told that nobody knows."""
    with Load(rig) as load:
        rig.web_way.cut_at(script("admit").sha.encode(), keep=keep, times=3)
        sprung(rig.web_way, 3)
        load.more(20)
    load.require_each_once("STORE_UNAVAILABLE")


def test_the_answer_to_the_web_process_is_lost(rig: Rig) -> None:
    """The call is queued, its caller is told that nobody knows; it runs once or not at all."""
    with Load(rig) as load:
        for silent in (False, True):
            rig.web_way.lose_answer_to(script("admit").sha.encode(), silent=silent)
            sprung(rig.web_way)
            load.more(20)
    load.require_each_once("STORE_UNAVAILABLE")
    assert load.codes()["STORE_UNAVAILABLE"] >= 2


@pytest.mark.parametrize(
    "pattern",
    [b"PUBLISH", script("finish").sha.encode(), script("fetch").sha.encode()],
    ids=["PUBLISH", "finish", "fetch"],
)
@pytest.mark.parametrize("keep", [0, 7])
def test_the_worker_is_cut_off_in_the_middle_of_its_writes(rig: Rig, pattern: bytes, keep: int) -> None:
    """What it had to say is said again on the next connection: nobody is told of it."""
    with Load(rig) as load:
        rig.worker_way.cut_at(pattern, keep=keep, times=3)
        sprung(rig.worker_way, 3)
        load.more(20)
    load.require_each_once()


@pytest.mark.parametrize("keep", [0, 5, 300])
def test_the_worker_s_calls_are_cut_off_on_their_way_to_it(rig: Rig, keep: int) -> None:
    """Redis has recorded them as begun, and the worker has a part of the answer: it finds them in its record."""
    with Load(rig) as load:
        rig.worker_way.cut_at(b"gateway.invoke", answers=True, keep=keep, times=2)
        sprung(rig.worker_way, 2)
        load.more(20)
    load.require_each_once()


@pytest.mark.parametrize("pattern", [script("fetch").sha.encode(), b"PUBLISH"], ids=["fetch", "replies"])
@pytest.mark.parametrize("silent", [False, True], ids=["cut", "silent"])
def test_an_answer_to_the_worker_is_lost(rig: Rig, pattern: bytes, silent: bool) -> None:
    """Also by a connection that says nothing more: it is given up after the socket timeout."""
    with Load(rig) as load:
        rig.worker_way.lose_answer_to(pattern, silent=silent)
        sprung(rig.worker_way)
        load.more(20)
    load.require_each_once()


@pytest.mark.parametrize("how", ["cut before", "cut inside", "silent"])
def test_a_reply_is_lost(rig: Rig, how: str) -> None:
    """The subscription breaks exactly as a reply passes: it is read from the result, long before the deadline."""
    reply = rig.keys.reply_prefix.encode()
    with Load(rig) as load:
        if how == "silent":
            rig.web_way.lose(reply)
        else:
            rig.web_way.cut_at(reply, answers=True, keep=0 if how == "cut before" else 60)
        sprung(rig.web_way)
        load.more(20)
    load.require_each_once()
    assert max(outcome.seconds for outcome in load.outcomes) < DEADLINE


def test_a_slow_redis(rig: Rig) -> None:
    """Every answer takes 0.4 s on both ways: calls take longer, and that is all."""
    with ExitStack() as stack:
        for proxy in (rig.web_way, rig.worker_way):
            proxy.delay = 0.4
            stack.callback(setattr, proxy, "delay", 0.0)
        with Load(rig) as load:
            pass
    load.require_each_once()


def test_both_ways_break_again_and_again(rig: Rig) -> None:
    """Every connection of both processes, five times."""
    with Load(rig) as load:
        for _ in range(5):
            cutting = [threading.Thread(target=proxy.cut) for proxy in (rig.web_way, rig.worker_way)]
            for thread in cutting:
                thread.start()
            for thread in cutting:
                thread.join()
            load.more(5)
    load.require_each_once("STORE_UNAVAILABLE")
    assert rig.control()["in-flight"] == 0


def test_poison_among_the_calls(rig: Rig) -> None:
    """Each piece is in the dead letters with its reason, as often as it was sent; no call is disturbed."""
    with rig.redis.client() as redis, Load(rig) as load:
        letters = rig.letters(redis)
        before = letters.count()
        for _ in range(5):
            for poison, _reason in UNREADABLE:
                redis.lpush(QUEUE, poison)
            load.more(5)
        expected = sorted(reason.value for _, reason in UNREADABLE * 5)
        wait_until(
            lambda: letters.count() - before == len(expected), description="all of it in the dead letters"
        )
        assert sorted(letter.reason for letter in letters.newest(len(expected))) == expected
    load.require_each_once()
    assert "no.such.task" not in rig.worker.output()


def test_poison_while_the_worker_s_way_breaks(rig: Rig) -> None:
    """The move to the dead letters is sent again when its answer is lost, and makes one letter all the same."""
    with rig.redis.client() as redis, Load(rig) as load:
        letters = rig.letters(redis)
        before = letters.count()
        for number in range(3):
            rig.worker_way.lose_answer_to(b"dead-letters")
            redis.lpush(QUEUE, b"poison %d" % number)
            sprung(rig.worker_way)
            load.more(5)
        wait_until(lambda: letters.count() - before >= 3, description="the dead letters")
        assert [letter.message for letter in letters.newest(3)] == [b"poison 2", b"poison 1", b"poison 0"]
    load.require_each_once()
    with rig.redis.client() as redis:
        assert rig.letters(redis).count() - before == 3


def test_whoever_waits_for_poison_is_told(rig: Rig) -> None:
    """A call of ours, damaged on its way: its FAILURE is there at once, long before the deadline."""
    call = invocation("echo", {"text": "x"}, tool="echo")
    head = Head(id=call.id, deadline=call.deadline, reply="", session="t:c", leave=Retry.UNSENT, queue=QUEUE)
    message = orjson.loads(task_message(call, head, prefix=rig.keys.prefix))
    message["body"] = "damaged"
    with rig.redis.client() as redis:
        redis.lpush(QUEUE, orjson.dumps(message))
        record = wait_until(
            lambda: redis.get(f"{RESULT_PREFIX}{call.id}"), timeout=2, description="the failure"
        )
    assert orjson.loads(record)["status"] == "FAILURE"
