"""One invocation on the worker: every end is a result with the right code, and nothing runs twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from common.calls.contract import task_message
from common.calls.head import session_of
from common.domain.errors import ErrorCode, SessionLimit, Status
from common.domain.ids import McpSessionId, queue_of
from common.domain.invocation import ExecutionResult, Invocation
from common.domain.rules import Retry
from common.domain.tool import Tool, ToolState
from common.domain.tool_status import OperatorState, Switch
from common.mcp.inbound import META_CLIENT_CAPABILITIES, META_LOG_LEVEL
from common.mcp.revisions import Era
from common.processes import ProcessGuard, is_running
from common.registry.records import Entry
from common.store.client import Client, StoreAddress
from common.store.clock import RedisClock
from common.store.keys import Keys
from gateway_worker import node as node_module
from gateway_worker.asking import Asking
from gateway_worker.claims import NotOwner
from gateway_worker.delivery import Held, Taken
from gateway_worker.egress.link import LinkLost, RpcError
from gateway_worker.egress.stdio import StdioLink
from gateway_worker.execute import Executor
from gateway_worker.journey import Journey
from gateway_worker.message import read_message
from gateway_worker.node import lease_time
from gateway_worker.outbox import Outbox
from tests.support.aio import on_loop, until
from tests.support.backends import (
    ERAS,
    EchoLog,
    FixedCatalogue,
    echo_backend,
    entry_of,
    http_backend,
    http_tool,
    invocation,
    misbehaving,
    stdio_tool,
    text_of,
)
from tests.support.messages import head
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.misbehaving_http import MisbehavingHttp
from tests.support.servers.process import free_port
from tests.worker.egress.http_links import respond, served
from tests.worker.session_desk import SessionDesk, session_desk

LEGACY, MODERN = Era.LEGACY, Era.MODERN


class Worker:
    """An executor over some entries, and what its calls' listeners heard."""

    def __init__(self, desk: SessionDesk, keys: Keys, *entries: Entry) -> None:
        self.catalogue = FixedCatalogue(*entries)
        self.desk, self.sessions = desk, desk.sessions
        self.outbox = Outbox(desk.redis, keys, result_ttl=60)
        journey = Journey(desk.redis, keys, self.outbox)
        asking = Asking(desk.node, desk.redis, keys, self.outbox)
        self.executor = Executor(
            self.catalogue, desk.sessions, desk.claims, desk.node, journey, RedisClock(), asking
        )
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def hold(self, call: Invocation, leave: Retry = Retry.UNSENT, verdict: bytes = b"held") -> Held:
        """The call as the worker holds it once it was fetched."""
        entry = self.catalogue.get(call.tool)
        session = session_of(entry.tool if entry else stdio_tool(), call.caller, call.mcp_session)
        of = head(call.id, session=session, leave=leave, queue=queue_of(call.tool), deadline=call.deadline)
        message = read_message(task_message(call, of, prefix="test"), of.queue)
        taken = Taken(
            node=self.desk.node.id,
            tag="1",
            raw=b"",
            queue=of.queue,
            verdict=verdict,
            token=self.desk.token(call.tool, session),
        )
        return Held(taken=taken, head=of, message=message)

    async def run(self, call: Invocation, leave: Retry = Retry.UNSENT) -> ExecutionResult:
        """Execute."""
        return await self.executor.run(self.hold(call, leave), call, lambda *heard: self.heard.append(heard))

    async def ready(self, tool: str = "local") -> None:
        """Make the session stand."""
        assert (await self.run(invocation("echo", {"text": "ready"}, tool=tool))).status is Status.SUCCESS


Workers = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def worker(guard: ProcessGuard, address: StoreAddress, client: Client, keys: Keys) -> Workers:
    """Makes workers with some entries, each closed at its end."""

    @asynccontextmanager
    async def made(*entries: Entry) -> AsyncIterator[Worker]:
        async with session_desk(guard, address, keys) as desk:
            yield Worker(desk, keys, *entries)

    return made


def code(result: ExecutionResult) -> ErrorCode | None:
    """The failure's code; None for an answer."""
    return None if result.answered or result.failure is None else result.failure.code


# -- who may be asked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["tools/call", "resources/subscribe", "logging/setLevel"])
def test_whatever_a_call_sends_may_be_given_up(
    sent: str, worker: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the backend then asks may be for the one who left, so no other client is asked."""
    request, at_backend = StdioLink.request, asyncio.Event()

    async def silent(link: StdioLink, method: str, params: dict[str, Any], **options: Any) -> dict[str, Any]:
        if method != sent:
            return await request(link, method, params, **options)
        at_backend.set()
        await asyncio.Event().wait()
        raise AssertionError

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(stdio_tool(), eras=[LEGACY])) as w:
            meta = {META_CLIENT_CAPABILITIES: {"elicitation": {}}, META_LOG_LEVEL: "debug"}
            call = invocation("echo", meta=meta)
            if sent == "resources/subscribe":
                params = {"_meta": meta, "uri": "note://a"}
                call = replace(call, method=sent, params=params, mcp_session=McpSessionId("one"))
            held = w.hold(call)
            held.head = held.head._replace(reply="test:reply:web")
            monkeypatch.setattr(StdioLink, "request", silent)
            running = asyncio.create_task(w.executor.run(held, call, lambda *_: None))
            await asyncio.wait_for(at_backend.wait(), 20)
            turns = w.sessions.all()[0].turns
            assert turns is not None
            running.cancel()
            assert code(await running) is ErrorCode.INVOCATION_CANCELLED
            async with turns.turn("another"):
                with pytest.raises(RpcError):
                    turns.asker()

    scenario()


# -- answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend_era", ERAS)
@pytest.mark.parametrize("caller_era", ERAS)
def test_an_answer_in_each_pair_of_eras(caller_era: Era, backend_era: Era, worker: Workers) -> None:
    """The caller gets its own era's form, with all the backend sent."""

    @on_loop
    async def scenario() -> None:
        entry = entry_of(stdio_tool("echo", "--era", backend_era.value), eras=[backend_era])
        async with worker(entry) as w:
            result = await w.run(invocation("rich", era=caller_era))
            assert result.status is Status.SUCCESS
            assert result.result is not None
            assert ("resultType" in result.result) == (caller_era is MODERN)
            assert result.result["vendorField"] == {"kept": True}
            assert result.result["_meta"]["vendor.example/kept"] == {"deep": ["x"]}
            assert set(result.stages) == {"session", "backend"}
            assert result.duration_ms >= result.stages["backend"]

    scenario()


@on_loop
async def test_errors_of_the_backend_are_answers(worker: Workers) -> None:
    """A result marked ``isError``, and a JSON-RPC error, unchanged; the session stays."""
    async with worker(entry_of(stdio_tool())) as w:
        marked = await w.run(invocation("fail"))
        assert (marked.status, marked.answered) == (Status.FAILURE, True)
        refused = await w.run(invocation("no such tool"))
        assert refused.answered
        assert refused.failure is not None
        assert refused.failure.rpc == {"code": -32602, "message": "Unknown tool: no such tool"}
        assert len(w.sessions) == 1


@on_loop
async def test_notifications_reach_the_callers_listener(worker: Workers) -> None:
    """With the caller's own token, before the result."""
    async with worker(entry_of(stdio_tool())) as w:
        await w.run(invocation("progress", {"steps": 2}, meta={"progressToken": "mine"}))
        assert [(m, p["progressToken"]) for m, p in w.heard] == [("notifications/progress", "mine")] * 2


@on_loop
async def test_a_question_that_a_legacy_caller_cannot_be_asked(worker: Workers) -> None:
    """A backend that wants input although none was offered: a JSON-RPC error, and no traceback of ours."""

    def asks(connection: Any, request: Any) -> None:
        roots = {"roots": {"method": "roots/list"}}
        asked = {"resultType": "input_required", "inputRequests": roots, "requestState": "s"}
        connection.respond("200 OK", orjson.dumps(respond(request, asked)))

    with served(asks, era="modern") as server:
        async with worker(entry_of(http_tool(server.url), eras=[MODERN])) as w:
            result = await w.run(invocation("x", tool="remote", era=LEGACY))
            assert result.failure is not None
            assert result.failure.rpc is not None
            assert "input_required" in result.failure.rpc["message"]
            relayed = await w.run(invocation("x", tool="remote", era=MODERN))
            assert relayed.result is not None
            assert relayed.result["requestState"] == "s"


@on_loop
async def test_a_backend_that_only_wants_to_be_asked_again_is_asked_again(worker: Workers) -> None:
    """With its very state and nothing else, whoever called; one that never has enough is given up."""
    states: list[Any] = []

    def asks(connection: Any, request: Any) -> None:
        params = orjson.loads(request.body).get("params", {})
        states.append(params.get("requestState"))
        asked: dict[str, Any] = {"resultType": "input_required", "requestState": f"s{len(states)}"}
        done = {"resultType": "complete", "content": []}
        again = params.get("name") == "endless" or len(states) < 3
        connection.respond("200 OK", orjson.dumps(respond(request, asked if again else done)))

    with served(asks, era="modern") as server:
        async with worker(entry_of(http_tool(server.url), eras=[MODERN])) as w:
            states.clear()
            result = await w.run(invocation("x", tool="remote", era=LEGACY))
            assert result.result == {"content": []}
            assert states[-3:] == [None, "s1", "s2"]
            given_up = await w.run(invocation("endless", tool="remote", era=LEGACY))
            assert given_up.failure is not None
            assert given_up.failure.rpc is not None
            assert "10 times" in given_up.failure.rpc["message"]


@on_loop
async def test_annotated_arguments_go_into_headers(worker: Workers) -> None:
    """For a modern HTTP backend whose schema, as discovered, asks for it; also for a legacy caller."""
    region = {"type": "string", "x-mcp-header": "Region"}
    definition = {"name": "echo", "inputSchema": {"type": "object", "properties": {"text": region}}}
    with echo_backend("modern") as server:
        entry = entry_of(http_tool(server.url), eras=[MODERN], definitions=[definition])
        async with worker(entry) as w:
            for era in ERAS:
                await w.run(invocation("echo", {"text": "eu"}, tool="remote", era=era))
        assert [r.headers.get("mcp-param-region") for r in server.sent("tools/call")] == ["eu", "eu"]
    with echo_backend() as server:
        entry = entry_of(http_tool(server.url), eras=[LEGACY], definitions=[definition])
        async with worker(entry) as w:
            await w.run(invocation("echo", {"text": "eu"}, tool="remote", era=MODERN))
        assert [r.headers.get("mcp-param-region") for r in server.sent("tools/call")] == [None]


# -- refusals before the backend ------------------------------------------------------------------------


@on_loop
async def test_what_is_refused_before_the_backend(worker: Workers, echo_log: EchoLog) -> None:
    """A tool that is not there or switched off, and a revision nobody knows."""
    tool = stdio_tool(env=echo_log.env)
    async with worker(entry_of(tool)) as w:
        assert code(await w.run(invocation("echo", tool="other"))) is ErrorCode.TOOL_NOT_FOUND
        unknown = await w.run(replace(invocation("echo"), version="2031-01-01"))
        assert code(unknown) is ErrorCode.INVALID_REQUEST
        assert unknown.failure is not None
        assert unknown.failure.data == {"field": "version"}
        w.catalogue.put(entry_of(tool.with_state(ToolState.DISABLED)))
        assert code(await w.run(invocation("echo"))) is ErrorCode.TOOL_DISABLED
        assert len(w.sessions) == 0
    assert echo_log.received() == []


@pytest.mark.parametrize("seconds", [-60.0, -0.001, 0.0])
def test_a_call_whose_deadline_has_passed_is_not_executed(
    seconds: float, worker: Workers, echo_log: EchoLog
) -> None:
    """Not a byte of it reaches the backend, though the session stands and could take it at once."""

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
            await w.ready()
            result = await w.run(invocation("echo", {"text": "late"}, seconds=seconds))
            assert code(result) is ErrorCode.INVOCATION_TIMEOUT
            assert result.failure is not None
            assert result.failure.data["stage"] == "queue"
            await w.ready()
        texts = [m["params"]["arguments"]["text"] for m in echo_log.received("tools/call")]
        assert texts == ["ready", "ready"]

    scenario()


# -- time and cancellation ------------------------------------------------------------------------------


@on_loop
async def test_the_deadline_ends_a_call(worker: Workers, echo_log: EchoLog) -> None:
    """To a quarter of a second, and the backend is told; the session serves on."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        await w.ready()
        begun = time.monotonic()
        result = await w.run(invocation("cancel_log", seconds=0.3))
        assert 0.25 < time.monotonic() - begun < 0.55
        assert (result.status, code(result)) == (Status.TIMEOUT, ErrorCode.INVOCATION_TIMEOUT)
        await until(lambda: echo_log.received("notifications/cancelled"), description="the cancellation")
        await w.ready()
        assert len(echo_log.pids()) == 1


@on_loop
async def test_the_deadline_counts_during_the_start(worker: Workers) -> None:
    """A child that takes its time does not put it off."""
    async with worker(entry_of(misbehaving("silent"))) as w:
        begun = time.monotonic()
        result = await w.run(invocation("echo", {"text": "x"}, seconds=0.3))
        assert time.monotonic() - begun < 0.6
        assert code(result) is ErrorCode.INVOCATION_TIMEOUT


@on_loop
async def test_a_frozen_child(worker: Workers, echo_log: EchoLog, quick_stop: None) -> None:
    """A stopped process answers nothing and reads nothing: calls end at their deadlines, and it can be killed."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        await w.ready()
        (pid,) = echo_log.pids()
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        calls = [invocation("echo", {"text": "x" * 300_000}, seconds=0.3) for _ in range(5)]
        results = await asyncio.gather(*map(w.run, calls))
        assert time.monotonic() - begun < 0.6
        assert {code(result) for result in results} == {ErrorCode.INVOCATION_TIMEOUT}
    assert not is_running(pid)


@on_loop
async def test_a_cancelled_call(worker: Workers, echo_log: EchoLog) -> None:
    """Its task ends in a result, not in an exception."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        task = asyncio.create_task(w.run(invocation("cancel_log")))
        await until(lambda: echo_log.received("tools/call"), description="the call at the child")
        task.cancel()
        assert code(await task) is ErrorCode.INVOCATION_CANCELLED
        await until(lambda: echo_log.received("notifications/cancelled"), description="the cancellation")


# -- a second attempt -----------------------------------------------------------------------------------


@on_loop
async def test_a_session_that_expired_is_replaced_within_the_call(worker: Workers) -> None:
    """404 says that the request was not handled, so it is sent once more, in a new session."""
    inner = HttpServer(EchoServer(era="legacy"))
    handle = MisbehavingHttp(inner, mode="session_expired", only=None, location="").handle
    with http_backend(handle) as server:
        async with worker(entry_of(http_tool(server.url))) as w:
            for n in range(3):
                result = await w.run(invocation("echo", {"text": str(n)}, tool="remote"))
                assert text_of(result.result) == str(n)
        assert len(server.messages("initialize")) == 3


@pytest.mark.parametrize("verdict", [b"claimed", b"recovered"])
def test_what_may_be_noted_as_unsent_is_noted_when_it_is_sent(
    verdict: bytes, worker: Workers, client: Client, keys: Keys
) -> None:
    """Another call may have started the session meanwhile: given back all the same, this one would run twice."""

    @on_loop
    async def run() -> None:
        async with worker(entry_of(stdio_tool())) as w:
            await w.ready()
            call = invocation("echo", {"text": "x"}, tool="local")
            held = w.hold(call, verdict=verdict)
            client.hset(keys.unsent(held.node), held.tag, 1)
            await w.executor.run(held, call, lambda *_: None)
            assert client.hget(keys.unsent(held.node), held.tag) == b"0"

    run()


@on_loop
async def test_a_replaced_session_does_not_cut_off_its_other_calls(worker: Workers) -> None:
    """One call is told that it was not sent, and gets a new session; another still gets its answer on the old one."""
    with echo_backend("modern") as server:
        async with worker(entry_of(http_tool(server.url), eras=[MODERN])) as w:
            slow = asyncio.create_task(w.run(invocation("sleep", {"seconds": 0.5}, tool="remote")))
            await until(lambda: server.messages("tools/call"), description="the slow call")
            (session,) = w.sessions.all()
            link = (await session.backend()).link

            async def unsent(*_: object, **__: object) -> None:
                raise LinkLost("no connection", unsent=True)

            link.request = unsent  # type: ignore[method-assign, assignment]
            assert text_of((await w.run(invocation("echo", {"text": "x"}, tool="remote"))).result) == "x"
            assert w.sessions.all() != [session]
            assert text_of((await slow).result) == "slept 0.5 s"
            await until(link.closed.is_set, description="the old session to be closed")


@on_loop
async def test_what_may_have_been_seen_is_not_sent_again(worker: Workers, echo_log: EchoLog) -> None:
    """The child dies in the middle of the call: whether it acted is unknown, so there is one attempt."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        result = await w.run(invocation("kill_me"))
        assert code(result) is ErrorCode.TRANSPORT_FAILURE
        assert len(echo_log.received("tools/call")) == 1
        await w.ready()
        assert len(echo_log.pids()) == 2


@on_loop
async def test_a_backend_that_is_away_is_tried_twice_and_no_more(worker: Workers) -> None:
    """The failure is typed, quick, and kept by nobody: once it is back, the next call works."""
    port = free_port()
    entry = entry_of(http_tool(f"http://127.0.0.1:{port}/mcp"))
    async with worker(entry) as w:
        begun = time.monotonic()
        result = await w.run(invocation("echo", {"text": "x"}, tool="remote"))
        assert code(result) is ErrorCode.TRANSPORT_FAILURE
        assert time.monotonic() - begun < 2.0
        with echo_backend() as server:
            w.catalogue.put(entry_of(http_tool(server.url)))
            await w.ready("remote")


@on_loop
async def test_a_fault_of_our_own_is_a_result_too(worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is ever raised to the engine; the message holds no inner detail."""

    def broken(*_: object) -> None:
        raise KeyError("a secret detail")

    async with worker(entry_of(stdio_tool())) as w:
        monkeypatch.setattr(w.sessions, "take", broken)
        result = await w.run(invocation("echo"))
        assert code(result) is ErrorCode.INTERNAL
        assert "secret" not in str(result)


# -- leave, and who may send ----------------------------------------------------------------------------


@pytest.mark.parametrize(("leave", "attempts"), [(Retry.NEVER, 1), (Retry.UNSENT, 1), (Retry.SAFE, 2)])
def test_a_call_that_may_have_run_is_sent_again_with_leave_only(
    leave: Retry, attempts: int, worker: Workers, echo_log: EchoLog
) -> None:
    """The child dies in the middle of it: once more only where running twice does no harm, and no more than that."""

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
            assert code(await w.run(invocation("kill_me"), leave)) is ErrorCode.TRANSPORT_FAILURE
            assert len(echo_log.received("tools/call")) == attempts

    scenario()


@pytest.mark.parametrize(("leave", "answered"), [(Retry.NEVER, False), (Retry.UNSENT, True)])
def test_a_call_that_was_certainly_not_sent_is_sent_again_unless_never(
    leave: Retry, answered: bool, worker: Workers
) -> None:
    """The operator's ``never`` is taken at its word."""

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(stdio_tool())) as w:
            await w.ready()
            (session,) = w.sessions.all()

            async def unsent(*_: object, **__: object) -> None:
                raise LinkLost("no connection", unsent=True)

            (await session.backend()).link.request = unsent  # type: ignore[method-assign, assignment]
            assert (await w.run(invocation("echo", {"text": "x"}), leave)).answered == answered

    scenario()


@on_loop
async def test_errors_of_the_backend_restart_nothing(worker: Workers, echo_log: EchoLog) -> None:
    """Whatever leave a call has: a JSON-RPC error and an ``isError`` are answers."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        for name in ("fail", "no such tool"):
            assert (await w.run(invocation(name), Retry.SAFE)).answered
        assert len(echo_log.received("tools/call")) == 2
        assert len(echo_log.pids()) == 1


@pytest.mark.parametrize("leave", list(Retry))
@pytest.mark.parametrize("where", ["before", "turn"])
def test_a_session_that_was_lost_gets_nothing_more(
    where: str, leave: Retry, worker: Workers, echo_log: EchoLog
) -> None:
    """The node waits to be sure of its lease; when it knows that it lost the session, the call goes back.

    Whatever leave it has: nothing of it was sent, so nothing was tried.
    """

    @on_loop
    async def scenario() -> None:
        entry = entry_of(stdio_tool(env=echo_log.env, max_in_flight_per_session=1))
        async with worker(entry) as w:
            await w.ready()
            (session,) = w.sessions.all()
            assert session.turn is not None
            if where == "turn":
                await session.turn.acquire()
            else:
                w.desk.node.renew()
            waiting = asyncio.create_task(w.run(invocation("echo", {"text": "x"}), leave))
            await asyncio.sleep(0)
            assert session.in_flight == (where == "turn")
            w.desk.node.renew()
            if where == "turn":
                session.turn.release()
                await asyncio.sleep(0)
            w.desk.claims.drop_all()
            w.desk.node.confirm(float("inf"))
            with pytest.raises(NotOwner):
                await waiting
            assert len(echo_log.received("tools/call")) == 1
            assert len(echo_log.pids()) == 1

    scenario()


@pytest.mark.parametrize("leave", list(Retry))
def test_what_a_shut_gate_held_back_is_sent_once_it_opens(
    leave: Retry, worker: Workers, echo_log: EchoLog
) -> None:
    """Right before the write the node is not sure any more. It waits, and the same session gets the call, once."""

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
            await w.ready()
            (session,) = w.sessions.all()
            link = (await session.backend()).link
            plain, tries = link.request, 0

            async def late(*args: Any, **more: Any) -> Any:
                nonlocal tries
                tries += 1
                if tries == 1:
                    w.desk.node.renew()
                return await plain(*args, **more)

            link.request = late  # type: ignore[method-assign]
            waiting = asyncio.create_task(w.run(invocation("echo", {"text": "x"}), leave))
            await until(
                lambda: tries and not session.in_flight, description="the call to have been held back"
            )
            assert len(echo_log.received("tools/call")) == 1
            w.desk.node.confirm(float("inf"))
            assert text_of((await waiting).result) == "x"
            assert (tries, w.sessions.all()) == (2, [session])
            assert len(echo_log.received("tools/call")) == 2

    scenario()


@on_loop
async def test_a_start_behind_a_shut_gate_waits(worker: Workers, echo_log: EchoLog) -> None:
    """No child begins while the session may be another's; a deadline meanwhile says that nothing was asked."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        w.desk.node.renew()
        late = await w.run(invocation("echo", {"text": "late"}, seconds=0.2))
        assert late.failure is not None
        assert (late.failure.code, late.failure.data["stage"]) == (ErrorCode.INVOCATION_TIMEOUT, "queue")
        assert list(w.desk.claims) == [] or all(claim.releasing for claim in w.desk.claims)
        waiting = asyncio.create_task(w.run(invocation("echo", {"text": "x"})))
        await asyncio.sleep(0)
        assert echo_log.pids() == []
        w.desk.node.confirm(float("inf"))
        assert text_of((await waiting).result) == "x"


@pytest.mark.parametrize(
    ("leave", "end"),
    [
        (Retry.NEVER, ErrorCode.WORKER_LOST),
        (Retry.UNSENT, ErrorCode.WORKER_LOST),
        (Retry.SAFE, None),
    ],
)
def test_a_worker_that_is_cut_off_gives_its_sessions_up(
    leave: Retry,
    end: ErrorCode | None,
    worker: Workers,
    echo_log: EchoLog,
    monkeypatch: pytest.MonkeyPatch,
    quick_stop: None,
) -> None:
    """Too long without a confirmed beat: the child goes. Whether a call under way acted is unknown.

    One that may run twice goes back. Calls go on with a session that is new when the worker is back.
    """

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
            under_way = asyncio.create_task(w.run(invocation("cancel_log"), leave))
            await until(lambda: echo_log.received("tools/call"), description="the call at the child")
            (pid,) = echo_log.pids()
            monkeypatch.setattr(node_module, "CUT_OFF", 0.2)
            monkeypatch.setattr(node_module, "SELF_FENCE", 0.15)
            w.desk.node.confirm(lease_time())
            watch = asyncio.create_task(w.sessions.end_when_cut_off(w.desk.node))
            if end is None:
                with pytest.raises(NotOwner):
                    await under_way
            else:
                assert code(await under_way) is end
            await until(lambda: not is_running(pid), description="the child to end")
            watch.cancel()
            await asyncio.wait([watch])
            w.desk.node.confirm(float("inf"))
            await until(lambda: not list(w.desk.claims), description="the session to be free")
            await w.ready()
            assert len(echo_log.pids()) == 2

    scenario()


@on_loop
async def test_a_second_attempt_looks_for_its_claim_again(
    worker: Workers, client: Client, keys: Keys, echo_log: EchoLog
) -> None:
    """Its session went while the first was under way, and another has it by now: it goes back."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        await w.ready()
        (session,) = w.sessions.all()
        call = invocation("echo", {"text": "x"})
        held = w.hold(call)
        client.zadd(keys.nodes, {"other": 9e15, w.desk.node.id: 9e15})
        client.hset(keys.sessions(call.tool), held.head.session, "other 5 1")

        async def broken(*_: object, **__: object) -> None:
            w.desk.claims._begin_release(session.claim)
            raise LinkLost("no connection", unsent=True)

        (await session.backend()).link.request = broken  # type: ignore[method-assign, assignment]
        with pytest.raises(NotOwner):
            await w.executor.run(held, call, lambda *_: None)
        assert len(echo_log.received("tools/call")) == 1


@on_loop
async def test_a_retiring_tool_runs_what_was_accepted(worker: Workers, echo_log: EchoLog) -> None:
    """Web processes let nobody else in; one that is switched off besides runs nothing."""
    retiring = replace(entry_of(stdio_tool(env=echo_log.env)), operator=OperatorState(retiring=True))
    async with worker(retiring) as w:
        assert (await w.run(invocation("echo", {"text": "x"}))).failure is None
        w.catalogue.put(replace(retiring, operator=OperatorState(retiring=True, switch=Switch.OFF)))
        assert code(await w.run(invocation("echo", {"text": "x"}))) is ErrorCode.TOOL_DISABLED


@on_loop
async def test_a_call_of_a_newer_tool_goes_back(worker: Workers, echo_log: EchoLog) -> None:
    """The call goes back: it is none of a tool that does not exist."""
    entry = entry_of(stdio_tool(env=echo_log.env))
    async with worker(entry) as w:
        await w.ready()
        w.catalogue._entries.clear()
        w.catalogue.unreadable = frozenset({entry.id})
        with pytest.raises(NotOwner):
            await w.run(invocation("echo", {"text": "x"}))
        assert len(echo_log.received("tools/call")) == 1  # the one by which it became ready


@pytest.mark.parametrize("why", ["disabled", "limit"])
def test_what_keeps_a_second_attempt_from_beginning_does_not_hide_the_first(
    why: str, worker: Workers, echo_log: EchoLog
) -> None:
    """The first may have run: a refusal would say that nothing was sent."""

    @on_loop
    async def scenario() -> None:
        tool = stdio_tool(env=echo_log.env)
        async with worker(entry_of(tool)) as w:
            await w.ready()
            (session,) = w.sessions.all()

            async def refused(*_: object) -> None:
                raise SessionLimit("too many", reason="tool")

            async def broken(*_: object, **__: object) -> None:
                if why == "disabled":
                    w.catalogue.put(entry_of(tool.with_state(ToolState.DISABLED)))
                else:
                    w.desk.claims.find = lambda *_: None  # type: ignore[method-assign]
                    w.desk.claims.confirm = refused  # type: ignore[method-assign, assignment]
                raise LinkLost("the connection broke")

            (await session.backend()).link.request = broken  # type: ignore[method-assign, assignment]
            result = await w.run(invocation("echo", {"text": "x"}), Retry.SAFE)
            assert code(result) is ErrorCode.TRANSPORT_FAILURE
            assert len(echo_log.received("tools/call")) == 1

    scenario()


@on_loop
async def test_an_examination_behind_a_shut_gate_says_nothing(worker: Workers, echo_log: EchoLog) -> None:
    """The child was not asked, so it does not hang: it keeps its state."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        await w.ready()
        (session,) = w.sessions.all()
        w.desk.node.renew()
        w.sessions.examine(session)
        await until(lambda: session.examined is None, description="the examination to end")
        assert w.sessions.all() == [session]
        assert echo_log.received("ping") == []


@on_loop
async def test_a_call_for_another_s_session_goes_back(
    worker: Workers, client: Client, keys: Keys, echo_log: EchoLog
) -> None:
    """Its verdict was lost with the answer of the fetch, and Redis says that a living other owns the session."""
    async with worker(entry_of(stdio_tool(env=echo_log.env))) as w:
        call = invocation("echo", {"text": "x"})
        held = w.hold(call)
        client.zadd(keys.nodes, {"other": 9e15, w.desk.node.id: 9e15})
        client.hset(keys.sessions(call.tool), held.head.session, "other 5 1")
        unknown = replace(held, taken=held.taken._replace(token=None))
        with pytest.raises(NotOwner):
            await w.executor.run(unknown, call, lambda *_: None)
    assert echo_log.received() == []


@pytest.mark.parametrize(
    ("tool", "stage"), [(stdio_tool(), "backend"), (misbehaving("silent"), "session")], ids=["call", "start"]
)
def test_a_timeout_says_how_far_the_call_had_come(tool: Tool, stage: str, worker: Workers) -> None:
    """The circuit depends on it: what waited in our own queue says nothing about the backend."""

    @on_loop
    async def scenario() -> None:
        async with worker(entry_of(tool)) as w:
            if stage == "backend":
                await w.ready()
            result = await w.run(invocation("cancel_log", seconds=0.3))
            assert result.failure is not None
            assert result.failure.data["stage"] == stage

    scenario()


@on_loop
async def test_a_session_gives_its_turns_one_after_the_other(worker: Workers) -> None:
    """``max_in_flight_per_session``; who does not get one in time is told where it waited."""
    async with worker(entry_of(stdio_tool(max_in_flight_per_session=1))) as w:
        await w.ready()
        slow = asyncio.create_task(w.run(invocation("sleep", {"seconds": 0.6})))
        await until(lambda: w.sessions.all()[0].in_flight, description="the first to be under way")
        late = await w.run(invocation("echo", {"text": "x"}, seconds=0.2))
        assert late.failure is not None
        assert (late.failure.code, late.failure.data["stage"]) == (ErrorCode.INVOCATION_TIMEOUT, "turn")
        assert (await slow).answered
