"""The Python API: who is refused and when, how a call ends, and what is left of it afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from common.calls import cancellation, replies
from common.calls.admission import Order, Verdict
from common.calls.replies import Notification
from common.domain.errors import (
    ErrorCode,
    Forbidden,
    GatewayError,
    InvalidRequest,
    QueueFull,
    SessionNotFound,
    StoreUnavailable,
    ToolDisabled,
    ToolNotFound,
    ToolUnavailable,
)
from common.domain.ids import ClientId, InvocationId, McpSessionId, NodeId, TenantId, ToolId, queue_of
from common.domain.invocation import Caller, ExecutionResult, answer
from common.domain.session import McpSession
from common.domain.tool import StdioTransport, Tool, ToolState
from common.gateway import Call, Gateway, entrance
from common.settings import Settings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.scripts import run
from tests.support.fake_worker import FakeWorker, TakenCall
from tests.support.messages import unstamped
from tests.support.redis import RedisServer
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

ME = Caller(tenant=TenantId("default"), client=ClientId("default"))
ECHO, SLOW, OFF, NARROW = ToolId("echo"), ToolId("slow"), ToolId("off"), ToolId("narrow")
SESSION = McpSessionId("session")
Open = Callable[..., Gateway]


def tool(name: ToolId, **changes: Any) -> Tool:
    return Tool(id=name, transport=StdioTransport(command="cmd"), **changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "HEARTBEAT", 0.05)
    monkeypatch.setattr(replies, "MISSED_HEARTBEATS", 20)
    monkeypatch.setattr(replies, "RETRY_MAX", 0.1)
    monkeypatch.setattr("common.calls.call.ANSWER_GRACE", 0.1)
    monkeypatch.setattr(entrance, "FIRST_READING", 0.1)


def settings(**sections: Mapping[str, Any]) -> Settings:
    return Settings.model_validate({"redis": {"key_prefix": "test"}, **sections})


@pytest.fixture
def opened(client: Client, address: StoreAddress, proxy: TcpProxy) -> Iterator[Open]:
    """Opens gateways, each ready to call; closes them afterwards."""
    gateways = []

    def open_one(where: StoreAddress = address, **sections: Mapping[str, Any]) -> Gateway:
        gateway = Gateway(settings(**sections), where)
        gateways.append(gateway)
        gateway.registry.publish_file(
            [
                tool(ECHO),
                tool(SLOW, request_timeout=0.2),
                tool(OFF).with_state(ToolState.DISABLED),
                tool(NARROW, queue_max_length=2),
            ]
        )
        gateway.start()
        wait_until(
            lambda: gateway.catalogue.get(ECHO) and gateway.tenants.version >= 0,
            description="the catalogue and the tenants are read",
        )
        return gateway

    yield open_one
    for gateway in gateways:
        gateway.close()


@pytest.fixture
def gateway(opened: Open) -> Gateway:
    return opened()


@pytest.fixture
def worker(redis_server: RedisServer, client: Client, keys: Keys) -> Iterator[FakeWorker]:
    with FakeWorker(redis_server, keys, [ECHO, SLOW]) as worker:
        yield worker


def known(gateway: Gateway) -> McpSession:
    """The session with the id SESSION, as its process knows it."""
    session = McpSession(id=SESSION, principal=ME.principal, version="2025-11-25")
    gateway.mcp_sessions._write(session)
    return session


def nothing_is_left(gateway: Gateway) -> bool:
    return gateway.hub.waiting == 0 and gateway.cancellations.remembered == 0


# -- a good call ----------------------------------------------------------------------------------------


def test_a_call_is_answered(gateway: Gateway, worker: FakeWorker) -> None:
    """The backend's answer, unchanged; nothing of the call is left."""
    result = gateway.invoke(ME, ECHO, "tools/call", {"name": "x", "arguments": {"ü": 1}})
    assert result.result == {
        "content": [],
        "structuredContent": {"method": "tools/call", "params": {"name": "x", "arguments": {"ü": 1}}},
    }
    assert nothing_is_left(gateway)


def test_the_worker_is_told_all_it_needs(gateway: Gateway, worker: FakeWorker) -> None:
    """Caller, tool, version, ids; and where the answer goes."""
    caller = Caller(tenant=TenantId("default"), client=ClientId("c"), subject="s", scopes=frozenset({"read"}))
    gateway.invoke(
        caller,
        ECHO,
        "resources/read",
        {"uri": "x"},
        version="2026-07-28",
        request_id="r",
        session=known(gateway),
    )
    taken = worker.next_call()
    found = taken.invocation
    assert (found.caller, found.tool, found.method, found.version) == (
        caller,
        ECHO,
        "resources/read",
        "2026-07-28",
    )
    assert (found.request_id, found.mcp_session, taken.reply_to) == ("r", SESSION, gateway.hub.channel)


def test_notifications_come_before_the_answer(gateway: Gateway, worker: FakeWorker) -> None:
    """In order, while the call runs."""

    def talk(call: TakenCall) -> None:
        for number in (1, 2):
            call.notify("notifications/progress", progress=number)
        call.finish(answer({}))

    worker.behaviour = talk
    with gateway.begin(ME, ECHO, "tools/call", {}) as call:
        frames = [call.next(5) for _ in range(3)]
    assert [f.message["params"]["progress"] for f in frames[:2] if isinstance(f, Notification)] == [1, 2]
    assert frames[2] == answer({})
    worker.behaviour = talk
    assert gateway.invoke(ME, ECHO, "tools/call", {}) == answer({})


def test_silence_is_none_and_the_call_goes_on(gateway: Gateway, worker: FakeWorker) -> None:
    """``next`` may be asked again."""
    go = threading.Event()

    def wait(call: TakenCall) -> None:
        go.wait(5)
        call.finish(answer({}))

    worker.behaviour = wait
    with gateway.begin(ME, ECHO, "tools/call", {}) as call:
        assert call.next(0.01) is None
        go.set()
        assert call.next(5) == answer({})
        assert call.age_ms > 10


def test_two_round_trips_at_most(gateway: Gateway, client: Client, worker: FakeWorker) -> None:
    """A call costs this side one script; what the second is for is the session of a legacy client."""
    gateway.invoke(ME, ECHO, "tools/call", {})
    before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    gateway.invoke(ME, ECHO, "tools/call", {})
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


# -- refusals -------------------------------------------------------------------------------------------


def test_a_tenant_nobody_listed_is_refused(opened: Open) -> None:
    """Before anything is said about tools; and by the Python API as a result."""
    gateway = opened(tenants={"listed": ["acme"]})
    stranger = Caller(tenant=TenantId("evil"), client=ClientId("c"))
    for name in (ECHO, ToolId("nobody")):
        with pytest.raises(Forbidden, match="'evil'"):
            gateway.begin(stranger, name, "tools/call", {})
    result = gateway.invoke(stranger, ECHO, "tools/call", {})
    assert result.failure is not None
    assert result.failure.code is ErrorCode.FORBIDDEN
    gateway.authorise_tenant(Caller(tenant=TenantId("acme"), client=ClientId("c")))
    assert gateway.client.llen(queue_of(ECHO)) == 0


def test_unlisted_tenants_may_be_admitted(opened: Open) -> None:
    """If the settings say so."""
    gateway = opened(tenants={"allow_unlisted": True})
    gateway.authorise_tenant(Caller(tenant=TenantId("anybody"), client=ClientId("c")))


@pytest.mark.parametrize(
    ("name", "error"), [(ToolId("nobody"), ToolNotFound), (OFF, ToolDisabled), (ToolId(""), ToolNotFound)]
)
def test_a_tool_that_may_not_be_called(gateway: Gateway, name: ToolId, error: type[GatewayError]) -> None:
    """Unknown, or switched off; nothing is queued and nobody waits."""
    with pytest.raises(error):
        gateway.begin(ME, name, "tools/call", {})
    assert gateway.client.exists(queue_of(name)) == 0
    assert nothing_is_left(gateway)


def test_a_tool_that_was_removed_is_gone_from_the_view(gateway: Gateway) -> None:
    """The registry's channel says so at once."""
    gateway.registry.remove(ECHO)
    wait_until(lambda: gateway.catalogue.get(ECHO) is None, description="the view follows")
    with pytest.raises(ToolNotFound):
        gateway.begin(ME, ECHO, "tools/call", {})


UNSENDABLE: list[dict[str, Any]] = [{"x": object()}, {"x": "\ud800"}, {"x": 2**70}, {"x": {1: 2}}]


@pytest.mark.parametrize("params", UNSENDABLE)
def test_params_that_are_no_json_are_refused(gateway: Gateway, params: dict[str, Any]) -> None:
    """By a typed error that says so; nobody is left waiting."""
    with pytest.raises(InvalidRequest) as caught:
        gateway.begin(ME, ECHO, "tools/call", params, request_id=1, session=known(gateway))
    assert caught.value.data == {"field": "params"}
    assert nothing_is_left(gateway)
    result = gateway.invoke(ME, ECHO, "tools/call", params)
    assert result.failure is not None
    assert result.failure.code is ErrorCode.INVALID_REQUEST


def test_params_may_be_any_mapping(gateway: Gateway, worker: FakeWorker) -> None:
    """The signature says Mapping."""
    result = gateway.invoke(ME, ECHO, "tools/call", MappingProxyType({"name": "x"}))
    assert result.result is not None
    assert result.result["structuredContent"]["params"] == {"name": "x"}


# -- deadlines ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, 30.0), (5, 5.0), (0.5, 0.5), (30, 30.0), (3600, 30.0), (float("inf"), 30.0)],
)
def test_the_deadline_is_the_shorter_of_tool_and_caller(
    gateway: Gateway, worker: FakeWorker, timeout: float | None, seconds: float
) -> None:
    """In milliseconds of Redis' clock: a caller may wait less than the tool's bound, never more."""
    before = gateway.client.time()
    gateway.invoke(ME, ECHO, "tools/call", {}, timeout=timeout)
    found = worker.next_call().invocation.deadline - (before[0] * 1000 + before[1] // 1000)
    assert seconds * 1000 - 50 <= found <= seconds * 1000 + 1000


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_without_time_is_refused(gateway: Gateway, timeout: float) -> None:
    """It means neither "none" nor "for ever"."""
    gateway.find(ME, ECHO)  # the registry has been read
    with pytest.raises(InvalidRequest) as caught:
        gateway.begin(ME, ECHO, "tools/call", {}, timeout=timeout)
    assert caught.value.data == {"field": "timeout"}
    assert nothing_is_left(gateway)
    assert gateway.client.llen(queue_of(ECHO)) == 0


def test_without_a_worker_the_call_times_out(gateway: Gateway, client: Client) -> None:
    """At its deadline and a little grace; the workers are told that nobody waits."""
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(gateway.keys.cancel_channel)
        channel.get_message(timeout=1)
        with gateway.begin(ME, SLOW, "tools/call", {}) as call:
            result = call.next(60)
        told = channel.get_message(timeout=1)
    assert isinstance(result, ExecutionResult)
    assert result.failure is not None
    assert result.failure.code is ErrorCode.INVOCATION_TIMEOUT
    assert told is not None
    assert told["data"] == call.invocation.id.encode()
    assert nothing_is_left(gateway)
    client.delete(queue_of(SLOW))


def test_after_the_deadline_there_is_always_a_result(gateway: Gateway, client: Client) -> None:
    """However often and however impatiently it is asked for."""
    with gateway.begin(ME, SLOW, "tools/call", {}) as call:
        wait_until(lambda: gateway.clock.left(call.invocation.deadline) < -0.1, description="the deadline")
        results = [call.next(timeout) for timeout in (0, 60, 0)]
    assert all(isinstance(result, ExecutionResult) for result in results)
    client.delete(queue_of(SLOW))


def test_an_answer_whose_frame_was_lost_is_found_at_the_deadline(
    gateway: Gateway, worker: FakeWorker
) -> None:
    """The result key is looked at once more before the caller is told that nothing came."""
    worker.behaviour = lambda call: call.finish(answer({"late": True}), published=False)
    assert gateway.invoke(ME, SLOW, "tools/call", {}) == answer({"late": True})
    assert gateway.hub.heals == 1
    assert worker.cancelled == []


# -- admission ------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_at_once(gateway: Gateway, client: Client) -> None:
    """Typed, with the time after which to try again; nothing is queued, nobody waits."""
    client.lpush(queue_of(NARROW), "a", "b")
    with pytest.raises(QueueFull) as caught:
        gateway.begin(ME, NARROW, "tools/call", {}, session=known(gateway))
    assert caught.value.data == {"reason": "length", "retry_after": 60.0}
    assert client.llen(queue_of(NARROW)) == 2
    assert nothing_is_left(gateway)


def test_a_queue_that_stands_still_refuses_at_once(gateway: Gateway, client: Client) -> None:
    """Its oldest call has waited longer than the tool's bound."""
    client.lpush(queue_of(NARROW), '{"enqueued_at":1000,"body":""}')
    with pytest.raises(QueueFull) as caught:
        gateway.begin(ME, NARROW, "tools/call", {})
    assert caught.value.data["reason"] == "age"


def test_a_session_that_another_process_ended_admits_no_call(opened: Open, client: Client) -> None:
    """This process remembers it, and relies on nothing it remembers."""
    here, there = opened(), opened()
    session = known(here)
    there.end_session(session)
    for _ in range(2):
        with pytest.raises(SessionNotFound):
            here.begin(ME, ECHO, "tools/call", {}, session=session)
    assert client.llen(queue_of(ECHO)) == 0
    assert nothing_is_left(here)


def test_a_session_that_another_process_changed_is_seen_as_it_is(
    opened: Open, client: Client, worker: FakeWorker
) -> None:
    """The call is admitted under the present record, once."""
    here, there = opened(), opened()
    session = known(here)
    there.mcp_sessions.set_log_level(session, "error")
    with here.begin(ME, ECHO, "tools/call", {}, session=session) as call:
        assert call.session == replace(session, log_level="error")
        assert worker.next_call().invocation.id == call.invocation.id
    assert client.llen(queue_of(ECHO)) == 0


# -- cancellation ---------------------------------------------------------------------------------------


def begun(gateway: Gateway, **options: Any) -> Call:
    session = options.pop("session", None) or known(gateway)
    return gateway.begin(ME, ECHO, "tools/call", {}, request_id=7, session=session, **options)


def is_cancelled(call: Call) -> bool:
    frame = call.next(5)
    return (
        isinstance(frame, ExecutionResult)
        and frame.failure is not None
        and frame.failure.code is ErrorCode.INVOCATION_CANCELLED
    )


def silent(_call: TakenCall) -> None:
    """A backend that takes its time."""


def test_a_cancelled_call_ends_at_once(gateway: Gateway, worker: FakeWorker) -> None:
    """Here without waiting for the worker, which is told."""
    worker.behaviour = silent
    with begun(gateway) as call:
        call.cancel()
        assert is_cancelled(call)
    wait_until(lambda: worker.cancelled == [call.invocation.id], description="the worker is told")
    assert nothing_is_left(gateway)


def test_a_request_is_cancelled_from_another_process(opened: Open, worker: FakeWorker) -> None:
    """Whichever web process gets ``notifications/cancelled``; only that session's request is meant."""
    here, there = opened(), opened()
    worker.behaviour = silent
    with begun(here) as call:
        there.cancel_request(McpSessionId("another"), 7)
        there.cancel_request(SESSION, "7")
        there.cancel_request(SESSION, 8)
        assert call.next(0.1) is None
        there.cancel_request(SESSION, 7)
        assert is_cancelled(call)
    wait_until(lambda: worker.cancelled == [call.invocation.id], description="the worker is told")


def test_what_has_ended_cannot_be_cancelled(gateway: Gateway, worker: FakeWorker) -> None:
    """A late cancellation meets nobody."""
    with begun(gateway) as call:
        assert isinstance(call.next(5), ExecutionResult)
    gateway.cancel_request(SESSION, 7)
    gateway.cancel_invocation(InvocationId("last"))
    wait_until(lambda: worker.cancelled, description="cancellations are heard")
    assert worker.cancelled == ["last"]


def test_a_request_id_used_twice_means_every_call_of_it(gateway: Gateway, worker: FakeWorker) -> None:
    """The specification forbids it; neither the first call's end nor its cancellation must hide the others."""
    worker.behaviour = silent
    first, second, third = begun(gateway), begun(gateway), begun(gateway)
    first.close()
    gateway.cancel_request(SESSION, 7)
    assert is_cancelled(second)
    assert is_cancelled(third)
    for call in (second, third):
        call.close()
    assert nothing_is_left(gateway)


def test_the_end_of_a_session_cancels_its_calls_in_every_process(opened: Open, worker: FakeWorker) -> None:
    """Whichever web process gets the DELETE; calls of another session, and of none, go on."""
    here, there, elsewhere = opened(), opened(), opened()
    worker.behaviour = silent
    session = known(here)
    another = McpSession(id=McpSessionId("another"), principal=ME.principal, version="2025-11-25")
    here.mcp_sessions._write(another)
    doomed = [begun(gateway, session=session) for gateway in (here, here, there)]
    others = [begun(here, session=another), here.begin(ME, ECHO, "tools/call", {}, request_id=7)]
    elsewhere.end_session(session)
    assert all(is_cancelled(call) for call in doomed)
    names = {call.invocation.id for call in doomed}
    wait_until(lambda: set(worker.cancelled) >= names, description="the workers are told")
    assert set(worker.cancelled) == names
    assert all(call.next(0.05) is None for call in others)
    for call in (*doomed, *others):
        call.close()
    assert nothing_is_left(here)
    assert nothing_is_left(there)


@pytest.mark.parametrize("end", ["request", "session"])
def test_a_call_whose_client_hung_up_can_still_be_cancelled(
    opened: Open, worker: FakeWorker, end: str
) -> None:
    """In the legacy era hanging up takes nothing back; its client often does so just before it ends the session."""
    here, there = opened(), opened()
    worker.behaviour = silent
    session = known(here)
    with begun(here, session=session) as call:
        worker.next_call()
        call.leave()
    assert nothing_is_left(here)
    if end == "session":
        there.end_session(session)
    else:
        there.cancel_request(SESSION, 7)
    wait_until(lambda: worker.cancelled == [call.invocation.id], description="the worker is told")


def test_calls_that_were_left_are_forgotten(
    gateway: Gateway, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At their deadlines, and the earliest of too many; no memory grows by clients that hang up."""
    monkeypatch.setattr(cancellation, "MOST_LEFT", 2)
    worker.behaviour = silent
    session = known(gateway)
    calls = [begun(gateway, session=session, timeout=30) for _ in range(3)]
    for call in calls:
        call.leave()
        call.leave()
        call.close()
    gateway.cancel_request(SESSION, 7)
    names = [call.invocation.id for call in calls[1:]]
    wait_until(lambda: worker.cancelled == names, description="the later two are cancelled")
    gateway.cancellations.expire(lambda deadline: deadline <= calls[-1].invocation.deadline)
    assert not gateway.cancellations._sessions
    brief = begun(gateway, session=session, timeout=0.05)
    brief.leave()
    brief.close()
    wait_until(lambda: not gateway.cancellations._sessions, description="its deadline to be over")


def test_a_call_that_was_admitted_just_before_the_end_of_its_session_is_cancelled(
    opened: Open, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is heard while the process has not even read that its call was admitted."""
    here, there = opened(), opened()
    worker.behaviour = silent
    session = known(here)
    heard = threading.Event()
    hear, admit = here.cancellations.hear, here._queueing._admission.admit

    def hear_and_tell(notice: bytes) -> None:
        hear(notice)
        heard.set()

    monkeypatch.setitem(here.hub._others, here.keys.cancel_request_channel, hear_and_tell)

    def admitted_then_ended(order: Order) -> Verdict:
        verdict = admit(order)
        there.end_session(session)
        assert heard.wait(5)
        return verdict

    monkeypatch.setattr(here._queueing._admission, "admit", admitted_then_ended)
    with begun(here, session=session) as call:
        assert is_cancelled(call)
    wait_until(lambda: worker.cancelled == [call.invocation.id], description="the workers are told")
    assert nothing_is_left(here)


@pytest.mark.parametrize(
    "notice",
    [
        *(b"", b"{", b"[]", b"7", b'{"session": "s"}', b'{"session": [], "request_id": {}}'),
        *(b'{"ended": true}', b'{"session": [], "ended": true}', b'{"session": "session", "ended": 1}'),
    ],
)
def test_an_unreadable_cancellation_is_dropped(
    gateway: Gateway, worker: FakeWorker, client: Client, notice: bytes
) -> None:
    """And does no harm to the calls under way."""
    client.publish(gateway.keys.cancel_request_channel, notice)
    assert gateway.invoke(ME, ECHO, "tools/call", {}).answered


# -- faults ---------------------------------------------------------------------------------------------


def test_without_redis_a_call_is_refused_and_nobody_waits(opened: Open, proxy: TcpProxy) -> None:
    """STORE_UNAVAILABLE, at once; ready again when Redis is."""
    gateway = opened(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1))
    proxy.refuse()
    proxy.cut()
    with pytest.raises(StoreUnavailable):
        begun(gateway)
    result = gateway.invoke(ME, ECHO, "tools/call", {})
    assert result.failure is not None
    assert result.failure.code is ErrorCode.STORE_UNAVAILABLE
    assert nothing_is_left(gateway)
    assert not gateway.readiness().redis
    assert not gateway.readiness().ready
    proxy.refuse(False)
    wait_until(lambda: gateway.readiness().replies, description="listening again")


def test_a_call_is_not_sent_twice(opened: Open, proxy: TcpProxy, client: Client) -> None:
    """Redis took it, and its answer was lost: the caller is told that it failed, and one message is queued."""
    gateway = opened(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=0.3))
    gateway.hub.close()
    run(client, "admit", ["tool.warm", "test:drain", "test:head"], [unstamped(), "test:", 0, 0, 1, 1, 100])
    session = known(gateway)
    proxy.swallow_next_reply()
    with pytest.raises(StoreUnavailable):
        begun(gateway, session=session)
    assert client.llen(queue_of(ECHO)) == 1
    assert nothing_is_left(gateway)


def test_without_redis_cancelling_still_ends_the_call_here(
    opened: Open, proxy: TcpProxy, worker: FakeWorker
) -> None:
    """It degrades: other processes and workers are not told, and nothing is raised."""
    gateway = opened(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1))
    worker.behaviour = silent
    with begun(gateway) as call:
        worker.next_call()
        proxy.refuse()
        proxy.cut()
        gateway.cancel_request(SESSION, 7)
        assert is_cancelled(call)
    assert worker.cancelled == []


def test_without_redis_the_end_of_a_session_still_ends_its_calls_here(
    opened: Open, proxy: TcpProxy, worker: FakeWorker
) -> None:
    """Its caller is told that it may stand (fails closed); the calls that nobody wants are given up all the same."""
    gateway = opened(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1))
    worker.behaviour = silent
    session = known(gateway)
    with begun(gateway, session=session) as call:
        worker.next_call()
        proxy.refuse()
        proxy.cut()
        with pytest.raises(StoreUnavailable):
            gateway.end_session(session)
        assert is_cancelled(call)
    assert worker.cancelled == []


def test_a_reply_during_an_outage_reaches_its_caller(
    opened: Open, proxy: TcpProxy, worker: FakeWorker
) -> None:
    """The call was taken, Redis went away from here, the worker answered, Redis came back."""
    gateway = opened(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1))
    worker.behaviour = silent
    with begun(gateway) as call:
        taken = worker.next_call()
        proxy.refuse()
        proxy.cut()
        wait_until(lambda: not gateway.hub.listening, description="the hub has noticed")
        taken.finish(answer({"n": 1}))
        proxy.refuse(False)
        assert call.next(5) == answer({"n": 1})


def test_a_call_that_may_have_been_queued_in_vain_is_taken_back(
    opened: Open, proxy: TcpProxy, client: Client
) -> None:
    """The caller was told that the outcome is unknown; the workers are told that nobody waits."""
    gateway = opened(StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=0.3))
    gateway.invoke(ME, SLOW, "tools/call", {}, timeout=0.01)
    client.delete(queue_of(SLOW))
    session = known(gateway)
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(gateway.keys.cancel_channel)
        channel.get_message(timeout=1)
        proxy.delay = 1
        with pytest.raises(StoreUnavailable) as caught:
            begun(gateway, session=session)
        proxy.delay = 0
        assert caught.value.data == {"outcome": "unknown"}
        (queued,) = client.lrange(queue_of(ECHO), 0, -1)
        told = wait_until(lambda: channel.get_message(timeout=0.05), description="it is taken back")
    assert told["data"] in queued


# -- state ----------------------------------------------------------------------------------------------


def test_it_is_ready_with_a_living_worker(gateway: Gateway, client: Client) -> None:
    """Redis, replies and one node whose lease runs; a dead one does not count."""
    state = gateway.readiness()
    assert (state.redis, state.replies, state.workers, state.ready) == (True, True, 0, False)
    run(client, "node_beat", [gateway.keys.nodes, gateway.keys.fenced(NodeId("dead"))], ["dead", 0])
    run(client, "node_beat", [gateway.keys.nodes, gateway.keys.fenced(NodeId("alive"))], ["alive", 8000])
    wait_until(lambda: gateway.readiness().workers == 1, description="one lives")
    assert gateway.readiness().ready


def test_the_clock_is_that_of_redis_before_the_first_call(
    address: StoreAddress, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose clock is an hour off sends no deadline in the past."""
    right = time.time()
    monkeypatch.setattr(time, "time", lambda: right - 3600)
    with Gateway(settings(), address) as gateway:
        wait_until(lambda: gateway.clock.synchronised, description="the clock is set")
        assert abs(gateway.clock.now() - right * 1000) < 60_000


def test_closing_lets_go_of_everything(address: StoreAddress, client: Client) -> None:
    """Threads and connections; also of one that was never started, and twice."""
    connections = len(client.client_list())
    gateway = Gateway(settings(), address)
    with gateway:
        assert gateway.hub.wait_listening(5)
        gateway.registry.entries()
    gateway.close()
    never = Gateway(settings(), address)
    never.registry.entries()
    never.close()
    wait_until(lambda: len(client.client_list()) == connections, description="all are closed")
    assert not [thread for thread in threading.enumerate() if thread.name == "replies"]


FILE_TOOL = tool(ToolId("from-file"))


@pytest.fixture
def publishing(client: Client, proxy: TcpProxy) -> Iterator[Gateway]:
    """A web process's gateway: it makes the registry hold the file's tools. Not started yet."""
    configured = settings().model_copy(update={"tools": (FILE_TOOL,)})
    address = StoreAddress(url=proxy.url, connect_timeout=1, socket_timeout=1)
    gateway = Gateway(configured, address, publish_tools=True)
    yield gateway
    gateway.close()


def knows_its_tool(gateway: Gateway) -> bool:
    return gateway.catalogue.get(FILE_TOOL.id) is not None and gateway.readiness().tools


def test_a_web_process_publishes_its_tools(publishing: Gateway) -> None:
    """At the start; before that it is not ready, and says "not yet" rather than "no such tool"."""
    assert not publishing.readiness().tools
    with pytest.raises(ToolUnavailable) as caught:
        publishing.find(ME, FILE_TOOL.id)
    assert caught.value.data == {"retry_after": 1}
    publishing.start()
    wait_until(lambda: knows_its_tool(publishing), description="its tool is published")
    with pytest.raises(ToolNotFound):
        publishing.find(ME, ToolId("nobody"))


def test_a_call_waits_for_the_first_reading(publishing: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just started refuses nobody: the call goes on as soon as the file's tools are known."""
    monkeypatch.setattr(entrance, "FIRST_READING", 10)
    asked, found = threading.Event(), []

    def find() -> None:
        asked.set()
        found.append(publishing.find(ME, FILE_TOOL.id).id)

    caller = threading.Thread(target=find)
    caller.start()
    assert asked.wait(5)
    assert not publishing.readiness().ready
    publishing.start()
    caller.join(5)
    assert found == [FILE_TOOL.id]


def test_the_first_reading_is_waited_for_no_longer_than_the_call_may_take(
    publishing: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller in a hurry is told in time; nothing is queued."""
    monkeypatch.setattr(entrance, "FIRST_READING", 60)
    begun_at = time.monotonic()
    with pytest.raises(ToolUnavailable):
        publishing.begin(ME, FILE_TOOL.id, "tools/call", {}, timeout=0.05)
    assert time.monotonic() - begun_at < 30
    assert nothing_is_left(publishing)


def test_tools_are_published_once_redis_is_there(publishing: Gateway, proxy: TcpProxy) -> None:
    """A web process may start first."""
    proxy.refuse()
    publishing.start()
    assert not publishing.hub.wait_listening(0.1)
    assert not publishing.readiness().tools
    proxy.refuse(False)
    wait_until(lambda: knows_its_tool(publishing), description="its tool is published")


def test_tools_are_published_again_after_redis_lost_them(publishing: Gateway, client: Client) -> None:
    """A Redis without a disk was restarted."""
    publishing.start()
    wait_until(lambda: knows_its_tool(publishing), description="its tool is published")
    client.flushdb()
    wait_until(
        lambda: client.hexists(publishing.keys.registry_tools, FILE_TOOL.id),
        description="it is published again",
    )
    wait_until(lambda: knows_its_tool(publishing), description="and known")
