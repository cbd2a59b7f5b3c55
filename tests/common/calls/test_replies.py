"""The reply hub: every accepted call gets its end, whatever becomes of the subscription."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls import replies
from common.calls.contract import notification_frame, result_frame, result_record, server_request_frame
from common.calls.replies import HEAL_BATCH, Notification, ReplyHub, ServerRequest, Waiter
from common.domain.errors import StoreUnavailable, WorkerLost
from common.domain.ids import InvocationId
from common.domain.invocation import ExecutionResult, answer, failed
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.shared import SharedConnection
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

OTHER = "test:other"
Start = Callable[..., ReplyHub]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same hub, with a faster pulse, and patience for a machine that is busy with other things."""
    monkeypatch.setattr(replies, "HEARTBEAT", 0.05)
    monkeypatch.setattr(replies, "MISSED_HEARTBEATS", 20)
    monkeypatch.setattr(replies, "RETRY_MAX", 0.1)


@pytest.fixture
def start(shared: SharedConnection, keys: Keys) -> Iterator[Start]:
    """Starts hubs; stops them afterwards."""
    hubs = []

    def begin(over: SharedConnection = shared, *, wait: bool = True, **options: Any) -> ReplyHub:
        hub = ReplyHub(over, keys, **options)
        hubs.append(hub)
        hub.start()
        assert not wait or hub.wait_listening(5)
        return hub

    yield begin
    for hub in hubs:
        hub.close()


@pytest.fixture
def shared(address: StoreAddress, client: Client) -> Iterator[SharedConnection]:
    connection = SharedConnection(address)
    yield connection
    connection.close()


@pytest.fixture
def disturbed(proxy: TcpProxy, client: Client) -> Iterator[SharedConnection]:
    """A connection whose way to Redis can be cut."""
    connection = SharedConnection(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1))
    yield connection
    connection.close()


def named(name: str) -> InvocationId:
    return InvocationId(name)


def store(client: Client, keys: Keys, name: str, result: ExecutionResult) -> None:
    client.set(keys.result(named(name)), result_record(name, result, done_at="2026-01-01T00:00:00"), ex=60)


def away(hub: ReplyHub, proxy: TcpProxy) -> None:
    """Take Redis away until the hub has noticed."""
    proxy.refuse()
    proxy.cut()
    wait_until(lambda: not hub.listening, description="the hub has noticed")


# -- undisturbed ----------------------------------------------------------------------------------------


def test_frames_reach_their_waiter_in_order(start: Start, client: Client) -> None:
    """Notifications, then the one result; each call gets its own."""
    hub = start()
    one, other = hub.expect(named("1")), hub.expect(named("2"))
    client.publish(hub.channel, notification_frame("1", "notifications/progress", {"progress": 1}))
    client.publish(hub.channel, result_frame("2", answer({"b": 2})))
    client.publish(hub.channel, notification_frame("1", "notifications/progress", {"progress": 2}))
    client.publish(hub.channel, result_frame("1", answer({"a": 1})))
    frames = [one.get(5) for _ in range(3)]
    assert [f.message["params"] for f in frames[:2] if isinstance(f, Notification)] == [
        {"progress": 1},
        {"progress": 2},
    ]
    assert frames[0] == Notification(
        {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    )
    assert frames[2] == answer({"a": 1})
    assert other.get(5) == answer({"b": 2})


def test_nothing_within_the_time_is_none(start: Start) -> None:
    """Also when no time is left at all."""
    waiter = start().expect(named("1"))
    assert [waiter.get(timeout) for timeout in (0.01, 0, -5)] == [None] * 3


def test_late_frames_are_dropped(start: Start, client: Client) -> None:
    """After the result, after the caller has gone, and for calls nobody has made."""
    hub = start()
    ended, gone, last = (hub.expect(named(name)) for name in ("ended", "gone", "last"))
    hub.forget(gone)
    hub.forget(gone)
    for name in ("ended", "gone", "nobody"):
        client.publish(hub.channel, result_frame(name, answer({"first": True})))
        client.publish(hub.channel, notification_frame(name, "notifications/progress", {}))
        client.publish(hub.channel, result_frame(name, failed(WorkerLost("late"))))
    client.publish(hub.channel, result_frame("last", answer({})))
    assert last.get(5) == answer({})
    assert ended.get(0) == answer({"first": True})
    assert (ended.get(0), gone.get(0)) == (None, None)
    assert hub.waiting == 2


def test_who_does_not_read_lets_no_notifications_pile_up(
    start: Start, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond a bound are dropped; requests and the result never are."""
    monkeypatch.setattr(replies, "MOST_UNREAD", 3)
    hub = start()
    waiter = hub.expect(named("1"))
    for number in range(5):
        client.publish(hub.channel, notification_frame("1", "n", {"n": number}))
    client.publish(hub.channel, server_request_frame("1", "q", "ping", {}))
    client.publish(hub.channel, notification_frame("1", "n", {"n": 5}))
    client.publish(hub.channel, result_frame("1", answer({})))
    wait_until(lambda: waiter.done, description="the result has come")
    found = [waiter.get(0) for _ in range(6)]
    assert [f.message["params"]["n"] for f in found if isinstance(f, Notification)] == [0, 1, 2]
    assert found[3:] == [ServerRequest("q", "ping", {}), answer({}), None]


def test_who_does_not_read_lets_no_bytes_pile_up(
    start: Start, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large notifications are dropped long before there are many; what is read makes room."""
    monkeypatch.setattr(replies, "MOST_UNREAD_BYTES", 10_000)
    hub = start()
    waiter = hub.expect(named("1"))

    for first in (0, 5):
        for number in range(first, first + 5):
            client.publish(hub.channel, notification_frame("1", "n", {"n": number, "x": "x" * 4000}))
        client.publish(hub.channel, server_request_frame("1", f"q{first}", "ping", {"x": "x" * 20_000}))
        wait_until(lambda: waiter.frames.qsize() == 4, description="three of them, and the request")
        found = [waiter.get(0) for _ in range(4)]
        kept = [f.message["params"]["n"] for f in found if isinstance(f, Notification)]
        assert kept == [first, first + 1, first + 2]
        assert isinstance(found[3], ServerRequest)
    client.publish(hub.channel, result_frame("1", answer({"x": "x" * 20_000})))
    assert isinstance(waiter.get(5), ExecutionResult)


def test_one_large_notification_is_not_dropped(
    start: Start, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing else waits, its size is no reason."""
    monkeypatch.setattr(replies, "MOST_UNREAD_BYTES", 10)
    hub = start()
    waiter = hub.expect(named("1"))
    for _ in range(2):
        client.publish(hub.channel, notification_frame("1", "n", {"x": "x" * 100}))
        assert isinstance(waiter.get(5), Notification)
    assert waiter.dropped == 0


def test_a_request_that_is_repeated_lies_there_once(start: Start, client: Client) -> None:
    """The worker repeats it until it is answered, also while its client does not read."""
    hub = start()
    waiter = hub.expect(named("1"))
    for name in ("q", "q", "r", "q"):
        client.publish(hub.channel, server_request_frame("1", name, "ping", {}))
    client.publish(hub.channel, result_frame("1", answer({})))
    frames = [waiter.get(5) for _ in range(3)]
    assert frames == [ServerRequest("q", "ping", {}), ServerRequest("r", "ping", {}), answer({})]


def test_a_thousand_wait_at_once(start: Start, client: Client) -> None:
    """Threads that block each get their own answer."""
    hub = start()
    waiters = [hub.expect(named(str(number))) for number in range(1000)]
    assert hub.waiting == 1000
    with client.pipeline(transaction=False) as pipe:
        for number in reversed(range(1000)):
            pipe.publish(hub.channel, result_frame(str(number), answer({"n": number})))
        pipe.execute()
    assert [waiter.get(5) for waiter in waiters] == [answer({"n": number}) for number in range(1000)]


def test_other_channels_have_their_own_readers(start: Start, client: Client) -> None:
    """Hints share the one connection."""
    heard: list[bytes] = []
    start(on_message={OTHER: heard.append})
    client.publish(OTHER, b"hint")
    wait_until(lambda: heard == [b"hint"], description="the hint is heard")


def test_each_process_has_a_channel_of_its_own(start: Start) -> None:
    """Nobody else's replies are heard."""
    assert start().channel != start().channel


def test_the_tick_goes_on(start: Start) -> None:
    """About once a second, and at once after a subscription."""
    ticks: list[float] = []
    start(on_tick=lambda: ticks.append(0))
    wait_until(lambda: len(ticks) > 3, description="ticks")


# -- lost subscriptions ---------------------------------------------------------------------------------


def test_a_reply_during_a_lost_connection_is_found(
    disturbed: SharedConnection, start: Start, proxy: TcpProxy, client: Client, keys: Keys
) -> None:
    """It was published to nobody; its result key tells it as soon as the subscription stands again."""
    hub = start(disturbed)
    waiter = hub.expect(named("1"))
    away(hub, proxy)
    store(client, keys, "1", answer({"a": 1}))
    assert client.publish(hub.channel, result_frame("1", answer({"a": 1}))) == 0
    proxy.refuse(False)
    assert waiter.get(5) == answer({"a": 1})
    assert hub.heals == 1
    wait_until(lambda: hub.listening, description="listening again")


def test_a_killed_subscription_is_healed(start: Start, client: Client, keys: Keys, raw: Redis) -> None:
    """CLIENT KILL TYPE pubsub, over and over, while results come in: none is lost, none comes twice."""
    hub = start()
    waiters = {str(number): hub.expect(named(str(number))) for number in range(50)}
    for name in waiters:
        raw.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        store(client, keys, name, answer({"name": name}))
        client.publish(hub.channel, result_frame(name, answer({"name": name})))
    assert [waiter.get(5) for waiter in waiters.values()] == [answer({"name": name}) for name in waiters]
    assert not [waiter for waiter in waiters.values() if waiter.get(0)]


def test_a_failure_is_found_as_what_it_was(start: Start, client: Client, keys: Keys) -> None:
    """Stock clients read an exception in the record; we read our own result beside it."""
    hub = start()
    waiter = hub.expect(named("1"))
    lost = failed(WorkerLost("gone"))
    store(client, keys, "1", lost)
    hub.recover(waiter)
    assert waiter.get(0) == lost


def test_many_are_healed_in_batches(
    disturbed: SharedConnection, start: Start, proxy: TcpProxy, client: Client, keys: Keys
) -> None:
    """More waiters than fit one MGET."""
    hub = start(disturbed)
    count = 2 * HEAL_BATCH + 50
    waiters = [hub.expect(named(str(number))) for number in range(count)]
    away(hub, proxy)
    for number in range(0, count, 2):
        store(client, keys, str(number), answer({"n": number}))
    proxy.refuse(False)
    assert [waiter.get(5) for waiter in waiters[::2]] == [answer({"n": n}) for n in range(0, count, 2)]
    assert hub.heals == count // 2
    assert not [waiter for waiter in waiters[1::2] if waiter.get(0)]


def test_a_connection_that_dies_silently_is_noticed(
    disturbed: SharedConnection,
    start: Start,
    proxy: TcpProxy,
    client: Client,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A firewall forgets it: no error, no end, only silence. The hub's ping is not answered, so it begins anew."""
    monkeypatch.setattr(replies, "MISSED_HEARTBEATS", 4)
    hub = start(disturbed)
    waiter = hub.expect(named("1"))
    proxy.black_hole()
    store(client, keys, "1", answer({}))
    assert waiter.get(5) == answer({})
    wait_until(lambda: hub.listening, description="listening again")
    other = hub.expect(named("2"))
    client.publish(hub.channel, result_frame("2", answer({"n": 2})))
    assert other.get(5) == answer({"n": 2})


def test_a_quiet_connection_is_no_dead_one(start: Start, client: Client, raw: Redis) -> None:
    """Without traffic the same subscription stands for as long as its pings are answered."""
    ticks: list[float] = []
    hub = start(on_tick=lambda: ticks.append(0))
    (before,) = (
        found["id"]
        for found in raw.client_list()
        if found["cmd"] in {"subscribe", "ping"} and found["sub"] != "0"
    )
    wait_until(lambda: len(ticks) > 25, description="more heartbeats than may be missed")
    after = {found["id"] for found in raw.client_list() if found["sub"] != "0"}
    assert after == {before}
    assert hub.listening


def test_redis_may_come_later_than_we(
    disturbed: SharedConnection, start: Start, proxy: TcpProxy, client: Client
) -> None:
    """A web process that starts first waits in the background, and says that it is not ready."""
    proxy.refuse()
    hub = start(disturbed, wait=False)
    assert not hub.wait_listening(0.1)
    proxy.refuse(False)
    assert hub.wait_listening(5)


def test_a_deaf_connection_keeps_no_result_back(
    disturbed: SharedConnection, start: Start, proxy: TcpProxy, client: Client, keys: Keys
) -> None:
    """It says nothing more, which is noticed after its timeout only; another one has the answer."""
    hub = start(disturbed)
    waiter = hub.expect(named("1"))
    store(client, keys, "1", answer({}))
    proxy.lose_answer_to(b"MGET", silent=True)
    hub.recover(waiter)
    assert proxy.sprung == 1
    assert waiter.get(0) == answer({})


def test_recovering_without_redis_finds_nothing(
    disturbed: SharedConnection, start: Start, proxy: TcpProxy
) -> None:
    """It degrades: no error for the caller."""
    hub = start(disturbed)
    waiter = hub.expect(named("1"))
    away(hub, proxy)
    hub.recover(waiter)
    assert waiter.get(0) is None


# -- what must not end it -------------------------------------------------------------------------------

UNREADABLE = [
    b"",
    b" ",
    b"1",
    b"1 ",
    b"1 {",
    b"1 []",
    b"1 7",
    b"1 null",
    b"1 {}",
    b'1 {"result": []}',
    b'1 {"result": null}',
    b'1 {"result": {}}',
    b'1 {"result": {"v": 1, "status": "odd"}}',
    b'1 {"result": {"v": 1, "status": "failure", "error": 5}}',
    b"\xff\xfe {}",
]


def test_unreadable_frames_do_not_stop_it(start: Start, client: Client) -> None:
    """They are dropped; the next good one arrives."""
    hub = start()
    waiter = hub.expect(named("1"))
    for frame in UNREADABLE:
        client.publish(hub.channel, frame)
    client.publish(hub.channel, result_frame("1", answer({"good": True})))
    # Each is told of with its traceback, which takes most of a second where an earlier test has set up coloured ones.
    assert waiter.get(30) == answer({"good": True})


RECORDS: list[Any] = [
    {},
    [],
    None,
    {"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": ["revoked"]}},
    {"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["x"]}, "traceback": "..."},
    {"status": "STARTED", "result": {"pid": 1, "hostname": "h"}},
    {"status": "SUCCESS", "result": "text"},
    {"status": "SUCCESS", "result": {"status": "success"}},
]


@pytest.mark.parametrize("record", RECORDS)
def test_another_ones_record_does_not_stop_it(
    disturbed: SharedConnection, start: Start, proxy: TcpProxy, client: Client, keys: Keys, record: Any
) -> None:
    """Stock Celery writes result keys too (``revoke``): unreadable for us, and no reason to end or to raise."""
    hub = start(disturbed)
    bad, good = hub.expect(named("bad")), hub.expect(named("good"))
    client.set(keys.result(named("bad")), orjson.dumps(record), ex=60)
    hub.recover(bad)
    away(hub, proxy)
    store(client, keys, "good", answer({}))
    proxy.refuse(False)
    assert good.get(5) == answer({})
    assert bad.get(0) is None
    wait_until(lambda: hub.listening, description="listening again")


def test_a_record_that_is_no_json_does_not_stop_it(start: Start, client: Client, keys: Keys) -> None:
    """Whatever stands under the key."""
    hub = start()
    waiter = hub.expect(named("1"))
    client.set(keys.result(named("1")), b"\x80not json", ex=60)
    hub.recover(waiter)
    assert waiter.get(0) is None


@pytest.mark.parametrize("fault", [ValueError("x"), RuntimeError("x"), AttributeError("x"), WorkerLost("x")])
def test_a_broken_reader_does_not_stop_it(start: Start, client: Client, fault: Exception) -> None:
    """Of the tick or of another channel: replies go on."""
    calls: list[object] = []

    def broken(*arguments: object) -> None:
        calls.append(arguments)
        raise fault

    hub = start(on_tick=broken, on_message={OTHER: broken})
    waiter = hub.expect(named("1"))
    client.publish(OTHER, b"hint")
    wait_until(lambda: (b"hint",) in calls and calls.count(()) > 2, description="both readers broke")
    client.publish(hub.channel, result_frame("1", answer({})))
    assert waiter.get(5) == answer({})
    assert hub.listening


def test_a_reader_without_redis_begins_anew(start: Start, client: Client) -> None:
    """What the tick reads comes from the same Redis: if that is away, so is the subscription, perhaps."""
    faults = [StoreUnavailable("away")] * 3

    def tick() -> None:
        if faults:
            raise faults.pop()

    hub = start(on_tick=tick, wait=False)
    wait_until(lambda: not faults and hub.listening, description="listening after three faults")


# -- beginning and end ----------------------------------------------------------------------------------


def test_closing_is_quick_and_repeatable(start: Start) -> None:
    """It takes a heartbeat at most; others' hubs go on."""
    start()
    before = set(threading.enumerate())
    hub = start()
    (own,) = (t for t in threading.enumerate() if t.name == "replies" and t not in before)
    begun = time.monotonic()
    hub.close()
    hub.close()
    assert time.monotonic() - begun < 1
    assert not own.is_alive()
    assert not hub.listening


def test_one_that_was_never_started_can_be_closed(shared: SharedConnection, keys: Keys) -> None:
    """Whoever failed between making and starting it."""
    ReplyHub(shared, keys).close()


def test_a_waiter_takes_one_result() -> None:
    """Of a reply and its recovery only the first counts."""
    waiter = Waiter(named("1"))
    waiter.put(answer({"n": 1}))
    waiter.put(answer({"n": 2}))
    waiter.put(Notification({}))
    assert [waiter.get(0), waiter.get(0)] == [answer({"n": 1}), None]


def test_it_works_with_greenlets(redis_url: str) -> None:
    """Under gunicorn's gevent worker: 100 greenlets wait in one thread, through a killed subscription."""
    program = """
    from gevent import monkey; monkey.patch_all()
    import gevent, sys
    from common.calls.contract import result_frame, result_record
    from common.calls.replies import ReplyHub
    from common.domain.invocation import answer
    from common.store.client import StoreAddress, connect
    from common.store.keys import Keys
    from common.store.shared import SharedConnection

    address, keys = StoreAddress(url=sys.argv[1]), Keys("gevent")
    client, shared = connect(address), SharedConnection(address)
    hub = ReplyHub(shared, keys)
    hub.start()
    assert hub.wait_listening(5)
    waiters = [hub.expect(str(number)) for number in range(100)]
    waiting = [gevent.spawn(waiter.get, 10) for waiter in waiters]
    gevent.sleep(0)
    for number in range(100):
        if number == 50:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        record = result_record(str(number), answer({"n": number}), done_at="2026-01-01T00:00:00")
        client.set(keys.result(str(number)), record, ex=10)
        client.publish(hub.channel, result_frame(str(number), answer({"n": number})))
    gevent.joinall(waiting, timeout=10)
    assert [found.value.result for found in waiting] == [{"n": number} for number in range(100)]
    hub.close()
    shared.close()
    client.close()
    print("all answered")
    """
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(program), redis_url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["all answered"]), done.stderr


def test_several_who_wait_for_one_call_all_hear_of_it(start: Start, client: Client) -> None:
    """A client that repeats its retry: whoever leaves takes nothing from the others."""
    hub = start()
    first, second, third = (hub.expect(named("c")) for _ in range(3))
    assert not hub.is_alone(first)
    hub.forget(first)
    hub.forget(first)
    client.publish(hub.channel, result_frame("c", answer({"n": 1})))
    for waiter in (second, third):
        frame = waiter.get(5)
        assert isinstance(frame, ExecutionResult)
    assert first.get(0) is None
    hub.forget(third)
    assert hub.is_alone(second)
    hub.forget(second)
    assert hub.waiting == 0


def test_what_nobody_foresaw_does_not_end_the_listening(
    shared: SharedConnection, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the process would hear no reply until it is restarted."""
    tries, listen = [], shared.listen

    def odd(*channels: str) -> Any:
        tries.append(channels)
        if len(tries) == 1:
            raise ZeroDivisionError
        return listen(*channels)

    monkeypatch.setattr(shared, "listen", odd)
    hub = start(wait=False)
    assert hub.wait_listening(5)
    assert len(tries) == 2
