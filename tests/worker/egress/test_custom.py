"""A transport of one's own behind a link: whatever its code does, it does to itself."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from common.credentials.injection import Injected
from common.domain.custom import CustomTransport
from common.domain.errors import ResponseTooLarge, TransportFailure
from common.domain.ids import ToolId
from common.domain.tool import Tool
from common.mcp.revisions import Era
from gateway_worker.egress import custom, factories
from gateway_worker.egress.backend import Backend, connect, make_link, start
from gateway_worker.egress.custom import CustomLink
from gateway_worker.egress.factories import Factories, PluginThread
from gateway_worker.egress.link import AnswerTooLarge, GateShut, LinkLost, RpcError
from tests.support import executors
from tests.support.aio import on_loop, until
from tests.worker.egress.test_gate import Latch

MAX_BYTES = 100_000
OURS = "tests.support.executors:InProcess"


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    """No thread blocks behind the test."""
    executors.released.clear()
    executors.seen.clear()
    executors.InProcess.made = 0
    yield
    executors.released.set()


def tool(*, factory: str = OURS, startup_timeout: float = 5.0, **options: Any) -> Tool:
    transport = CustomTransport(factory=factory, options=options)
    return Tool(id=ToolId("own"), transport=transport, startup_timeout=startup_timeout)


def link_of(
    made: Tool, kept: Factories | None = None, given: Injected | None = None, **options: Any
) -> CustomLink:
    more = {} if given is None else {"given": given}
    link = make_link(made, None, max_bytes=MAX_BYTES, factories=kept, **more, **options)  # type: ignore[arg-type]
    assert isinstance(link, CustomLink)
    return link


@asynccontextmanager
async def opened(
    *, kept: Factories | None = None, given: Injected | None = None, gate: Any = None, **options: Any
) -> AsyncIterator[tuple[Backend, CustomLink]]:
    kept, own = kept or Factories(), kept is None
    more = {} if gate is None else {"gate": gate}
    link = link_of(tool(**options), kept, given, **more)
    try:
        yield await connect(link, [Era.LEGACY, Era.MODERN]), link
    finally:
        await link.close()
        executors.released.set()
        if own:
            kept.close()


async def do(backend: Backend, what: str, *, seconds: float = 5.0, **more: Any) -> Any:
    """What the text of the result is."""
    told = {name: more.pop(name) for name in ("on_notification", "on_request", "on_settled") if name in more}
    meta = {"_meta": more.pop("meta")} if "meta" in more else {}
    async with asyncio.timeout(seconds):
        found = await backend.call(
            "tools/call", {"name": "do", "arguments": {"do": what, **more}, **meta}, **told
        )
    return found["content"][0]["text"]


@on_loop
async def test_a_session_is_spoken_to() -> None:
    """As any other: handshake, calls, notifications, errors as they are."""
    async with opened() as (backend, _):
        assert backend.negotiated.era is Era.LEGACY
        assert backend.negotiated.server_info["name"] == "in-process"
        assert await do(backend, "say", text="hello") == "hello"
        assert executors.seen["server"].notified == ["notifications/initialized"]
        with pytest.raises(RpcError) as error:
            await backend.request("prompts/list", {})
        assert error.value.error == {
            "code": -32601,
            "message": "no prompts/list",
            "data": {"kept": [1, None]},
        }


@on_loop
async def test_what_it_is_given() -> None:
    """Secrets where it is told them, and in ``_meta``; neither in what is written of it."""
    given = Injected(secrets={"key": "canary-1"}, meta={"com.example/token": "canary-2"})
    async with opened(given=given) as (backend, _):
        assert await do(backend, "secrets") == {"key": "canary-1"}
        assert (await do(backend, "meta"))["com.example/token"] == "canary-2"
        assert "canary" not in repr(executors.seen["server"].session)


async def _slowly(_method: str, _params: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0.2)
    return {"slow": True}


@pytest.mark.parametrize("what", ["raise", "exit", "cancel"])
@on_loop
async def test_what_it_raises_closes_its_session(what: str) -> None:
    """A failure of the transport, by its type alone; nobody else is harmed."""
    async with opened() as (backend, link):
        with pytest.raises((LinkLost, asyncio.CancelledError)) as error:
            await do(backend, what)
        assert isinstance(error.value, LinkLost)
        assert not error.value.unsent
        assert "canary" not in f"{error.value} {error.value.detail}"
        assert link.closed.is_set()
        with pytest.raises(LinkLost, match="failed"):
            await do(backend, "say")


@on_loop
async def test_what_was_certainly_not_sent_may_be_sent_again() -> None:
    """By a fresh session; other calls of this one go on."""
    async with opened() as (backend, link):
        other = asyncio.create_task(do(backend, "ask", params={}, on_request=_slowly))
        with pytest.raises(LinkLost) as error:
            await do(backend, "unsent")
        assert error.value.unsent
        assert not link.closed.is_set()
        assert await other == {"slow": True}


@pytest.mark.parametrize(
    "what", ["nothing", "a list", "an object", "odd keys", "a huge number", "a surrogate", "bad error"]
)
@on_loop
async def test_nonsense_fails_its_call_alone(what: str) -> None:
    """It was answered: the session stands."""
    async with opened() as (backend, link):
        with pytest.raises(LinkLost) as error:
            await do(backend, what)
        assert error.value.answered
        assert not link.closed.is_set()
        assert await do(backend, "say", text="still there") == "still there"


@on_loop
async def test_an_answer_above_the_bound_fails_its_call_alone() -> None:
    async with opened() as (backend, _):
        with pytest.raises(AnswerTooLarge) as error:
            await do(backend, "big")
        assert isinstance(error.value, ResponseTooLarge)
        assert await do(backend, "say") == "done"


@on_loop
async def test_who_no_longer_waits_cancels_it() -> None:
    """And does not wait for its end, which tells that the backend is done with it only if it answers."""
    async with opened() as (backend, link):
        settled: list[str] = []
        for what in ("hang", "hang on"):
            with pytest.raises(TimeoutError):
                await do(backend, what, seconds=0.2, on_settled=lambda what=what: settled.append(what))
        assert await do(backend, "say") == "done"
        await until(lambda: executors.seen["server"].cancelled == 2, description="both were cancelled")
        assert settled == []
        executors.released.set()
        await until(lambda: settled == ["hang on"], description="the late answer is noticed")
        assert not link.closed.is_set()


@on_loop
async def test_a_failure_behind_the_wait_closes_the_session() -> None:
    async with opened() as (backend, link):
        with pytest.raises(TimeoutError):
            await do(backend, "fail when cancelled", seconds=0.2)
        await until(link.closed.is_set, description="the session is closed")


@on_loop
async def test_progress_comes_under_the_callers_token() -> None:
    """Whatever tokens callers choose."""
    async with opened() as (backend, _):
        told: dict[str, list[Mapping[str, Any]]] = {"a": [], "b": []}

        async def one(name: str) -> None:
            def hear(method: str, params: dict[str, Any]) -> None:
                assert method == "notifications/progress"
                told[name].append(params)

            await do(backend, "progress", meta={"progressToken": "same"}, on_notification=hear)

        await asyncio.gather(one("a"), one("b"))
        expected = [
            {"progressToken": "same", "progress": step, "total": 3, "message": f"step {step}"}
            for step in (1, 2, 3)
        ]
        assert told == {"a": expected, "b": expected}


@on_loop
async def test_what_it_tells_is_bounded() -> None:
    """Beyond the bound it is dropped and counted, as is what nobody could be told."""
    async with opened() as (backend, link):
        heard: list[Any] = []
        held = threading.Event()

        def hear(_method: str, params: dict[str, Any]) -> None:
            if not heard:
                held.wait(1)  # the worker's loop is busy
            heard.append(params)

        await do(backend, "flood", on_notification=hear)
        assert len(heard) + link.noise == 5000
        assert link.noise >= 5000 - 2 * custom.MOST_TOLD
        before = link.noise
        assert await do(backend, "odd tells", on_notification=lambda *_: pytest.fail("told")) == "done"
        assert link.noise == before + 2


@on_loop
async def test_what_it_tells_is_bounded_in_sum() -> None:
    """Many large ones are no more than one answer may be."""
    async with opened() as (backend, link):
        heard: list[Any] = []
        assert await do(backend, "big tells", on_notification=lambda *told: heard.append(told)) == "done"
        assert len(heard) + link.noise == 20
        assert len(heard) >= 9
        room = custom.Room(3, 10)
        assert room.enter(6)
        assert not room.enter(5)
        assert room.enter(4)
        room.leave(6)
        assert room.enter(6)


@on_loop
async def test_what_it_asks_is_bounded() -> None:
    """Nobody is asked what no answer could be."""
    async with opened() as (backend, link):

        async def answer(_method: str, _params: dict[str, Any]) -> dict[str, Any]:
            pytest.fail("asked")

        link.asking._max_bytes = 1000
        with pytest.raises(RpcError, match="max_result_bytes"):
            await do(backend, "ask", params={"x": "y" * 1000}, on_request=answer)


@on_loop
async def test_what_belongs_to_no_call_is_heard() -> None:
    async with opened() as (backend, link):
        heard: list[str] = []
        link.on_notification = lambda method, _: heard.append(method)
        await do(backend, "announce")
        await until(lambda: heard == ["notifications/tools/list_changed"], description="it is heard")


@on_loop
async def test_it_asks_the_caller_of_its_call() -> None:
    """That one, and not another; what is refused comes as the backend is to be told it."""
    async with opened() as (backend, link):

        async def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
            return {"asked": method, **params}

        found = await do(backend, "ask", params={"who": "ann"}, on_request=answer)
        assert found == {"asked": "elicitation/create", "who": "ann"}
        with pytest.raises(RpcError, match="not supported by this client"):
            await do(backend, "ask", params={})
        link.on_request = answer
        assert await do(backend, "ask at large") == {"asked": "roots/list"}


@on_loop
async def test_a_question_ends_with_its_session() -> None:
    async with opened() as (backend, link):

        async def never(_method: str, _params: dict[str, Any]) -> dict[str, Any]:
            await asyncio.sleep(3600)
            return {}

        task = asyncio.create_task(do(backend, "ask", params={}, on_request=never))
        await until(lambda: link.asking._waiting, description="it asks")
        await link.close()
        with pytest.raises(LinkLost):
            await task


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"constructor": "raises"}, "cannot be made: Odd"),
        ({"open": "raises"}, r"failed \(Odd\)"),
        ({"open": "exits"}, r"failed \(SystemExit\)"),
        ({"open": "nonsense"}, "no ToolExecutor"),
        ({"notify": "raises"}, r"failed \(Odd\)"),
        ({"open": "hangs"}, "startup_timeout"),
        ({"factory": "nowhere:Nothing"}, "cannot be made: ModuleNotFoundError"),
        ({"factory": "nobodys"}, "'nobodys' is unknown"),
    ],
)
@on_loop
async def test_what_cannot_be_opened(options: dict[str, Any], words: str) -> None:
    """Within its time, with what an operator needs to know and nothing else."""
    kept = Factories()
    made = tool(startup_timeout=0.5, **options)
    with pytest.raises(TransportFailure, match=words) as error:
        await start(made, link_of(made, kept), [Era.LEGACY])
    assert "canary" not in str(error.value)
    kept.close()


@on_loop
async def test_a_lost_session_ends_what_waits_for_it() -> None:
    async with opened() as (backend, link):
        waiting = asyncio.create_task(do(backend, "hang"))
        await do(backend, "say")
        with suppress(LinkLost):  # it is under way as well
            await do(backend, "lose")
        with pytest.raises(LinkLost, match="lost its connection"):
            await waiting
        assert link.closed.is_set()


@on_loop
async def test_a_shut_gate_keeps_everything_back() -> None:
    """Also what has waited on the thread."""
    latch = Latch()
    async with opened(gate=latch) as (backend, link):
        blocked = asyncio.create_task(do(backend, "block", seconds=30))
        await until(lambda: len(link._jobs) == 1, description="the thread is blocked")
        behind = asyncio.create_task(do(backend, "say"))
        await until(lambda: len(link._jobs) == 2, description="one more waits")
        latch.shut()
        executors.released.set()
        with pytest.raises(GateShut):
            await behind
        assert await blocked == "done"
        with pytest.raises(GateShut):
            await do(backend, "say")
        latch.open = True
        assert await do(backend, "say") == "done"


@on_loop
async def test_one_that_blocks_holds_up_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others and the worker's loop go on; its thread is given up, and so many of them are too many."""
    monkeypatch.setattr(custom, "CLOSE_TIME", 0.1)
    monkeypatch.setattr(custom, "ANSWER_TIME", 0.1)
    kept = Factories()
    async with opened() as (other, _):
        for _ in range(factories.MOST_STUCK):
            link = link_of(tool(), kept)
            backend = await connect(link, [Era.LEGACY])
            with pytest.raises(TimeoutError):
                await do(backend, "block", seconds=0.1)
            assert await do(other, "say") == "done"
            await link.close()
        with pytest.raises(LinkLost, match="are stuck"):
            await connect(link_of(tool(), kept), [Era.LEGACY])
        executors.released.set()
        await until(lambda: not any(thread.alive for thread in kept._stuck), description="they have ended")
        link = link_of(tool(), kept)
        assert await do(await connect(link, [Era.LEGACY]), "say") == "done"
        await link.close()
    kept.close()


@on_loop
async def test_nobody_waits_for_a_thread_that_was_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a session that was to be opened there nor calls of others that stand there."""
    monkeypatch.setattr(custom, "CLOSE_TIME", 0.1)
    monkeypatch.setattr(custom, "ANSWER_TIME", 0.1)
    kept = Factories()
    one, other = link_of(tool(), kept), link_of(tool(), kept)
    backend, server = await connect(one, [Era.LEGACY]), executors.seen["server"]
    standing = await connect(other, [Era.LEGACY])
    with pytest.raises(TimeoutError):
        await do(backend, "block", seconds=0.1)
    waiting = asyncio.create_task(do(standing, "say", seconds=30))
    opening = asyncio.create_task(connect(link_of(tool(), kept), [Era.LEGACY]))
    await until(lambda: len(kept._threads[ToolId("own")]._jobs) == 2, description="both wait")
    await one.close()
    for task in (waiting, opening):
        with pytest.raises(LinkLost, match="blocks"):
            await task
    fresh = link_of(tool(), kept)
    assert await do(await connect(fresh, [Era.LEGACY]), "say") == "done"
    for link in (other, fresh):
        await link.close()
    assert server.open
    executors.released.set()
    await until(
        lambda: not server.open, description="what was open there is closed when the thread comes back"
    )
    kept.close()


@on_loop
async def test_all_sessions_of_a_thread_that_was_given_up_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an idle one: at once and for certain unsent, so that the next call has another; never for good."""
    monkeypatch.setattr(custom, "CLOSE_TIME", 0.1)
    monkeypatch.setattr(custom, "ANSWER_TIME", 0.1)
    kept = Factories()
    one, other = link_of(tool(), kept), link_of(tool(), kept)
    backend = await connect(one, [Era.LEGACY])
    idle = await connect(other, [Era.LEGACY])
    server = executors.seen["server"]
    with pytest.raises(TimeoutError):
        await do(backend, "block", seconds=0.1)
    behind = asyncio.create_task(do(idle, "say", seconds=30))
    thread = kept._threads[ToolId("own")]
    await until(lambda: len(thread._jobs) == 1, description="it waits")
    await one.close()
    assert other.closed.is_set()
    with pytest.raises(LinkLost) as lost:
        await behind
    assert lost.value.unsent
    with pytest.raises(LinkLost) as error:
        await do(idle, "say")
    assert error.value.unsent
    executors.released.set()
    await until(lambda: not thread.alive, description="it has ended")
    assert not server.open
    with pytest.raises(LinkLost) as error:
        await do(idle, "say")
    assert error.value.unsent
    await other.close()
    kept.close()


@pytest.mark.filterwarnings("error")
@on_loop
async def test_a_thread_that_has_ended_begins_nothing() -> None:
    """It says so at once, and that nothing was sent; stopping it again is no matter."""
    kept = Factories()
    link = link_of(tool(), kept)
    await connect(link, [Era.LEGACY])
    thread = kept._threads[ToolId("own")]
    thread.stop()
    job = thread.begin(lambda: asyncio.sleep(0))
    with pytest.raises(LinkLost) as error:
        await job.answer
    assert error.value.unsent
    await until(lambda: not thread.alive, description="it has ended")
    await until(link.closed.is_set, description="its link is told")
    thread.stop()
    gc.collect()
    await link.close()
    kept.close()


@on_loop
async def test_other_definitions_are_no_way_around_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of earlier definitions that do not end count as well."""
    monkeypatch.setattr(custom, "CLOSE_TIME", 0.1)
    monkeypatch.setattr(custom, "ANSWER_TIME", 0.1)
    kept = Factories()
    earlier: list[CustomLink] = []
    for number in range(factories.MOST_STUCK):
        link = link_of(tool(number=number), kept)
        backend = await connect(link, [Era.LEGACY])
        with pytest.raises(TimeoutError):
            await do(backend, "block", seconds=0.1)
        earlier.append(link)
    fresh = link_of(tool(number=-1), kept)
    await connect(fresh, [Era.LEGACY])
    for link in earlier:
        await link.close()
    with pytest.raises(LinkLost, match="are stuck"):
        await connect(link_of(tool(number=-2), kept), [Era.LEGACY])
    await fresh.close()
    executors.released.set()
    await until(lambda: not any(thread.alive for thread in kept._stuck), description="they have ended")
    kept.close()


@on_loop
async def test_what_nobody_uses_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if no other session is ever opened: its options may hold secrets."""
    monkeypatch.setattr(factories, "KEPT_IDLE", 0.0)
    monkeypatch.setattr(factories, "LOOK_FOR_IDLE", 0.01)
    kept = Factories()
    async with opened(kept=kept):
        kept.forget_idle()
        thread = kept._threads[ToolId("own")]
        looking = asyncio.create_task(kept.run())
    await until(lambda: not kept._threads and not thread.alive, description="it is forgotten")
    looking.cancel()
    kept.close()


@on_loop
async def test_many_that_block_are_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factories, "STOP_GRACE", 0.2)
    kept = Factories()
    transport = CustomTransport(factory=OURS)
    for number in range(5):
        thread = PluginThread(ToolId(f"own-{number}"), transport)
        kept._threads[thread.tool] = thread
        thread.loop.call_soon_threadsafe(executors.released.wait, 60)
    begun = time.monotonic()
    kept.close()
    assert time.monotonic() - begun < 1


@on_loop
async def test_a_task_of_its_own_that_exits_ends_nothing() -> None:
    async with opened() as (backend, _):
        assert await do(backend, "stray task exits") == "done"
        await until(executors.seen["task"].done, description="the task has exited")
        assert await do(backend, "say") == "done"


@pytest.mark.parametrize("how", ["raises", "hangs"])
@on_loop
async def test_closing_takes_no_longer_than_it_may(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its thread, which is well, stays."""
    monkeypatch.setattr(custom, "CLOSE_TIME", 0.2)
    kept = Factories()
    async with opened(kept=kept, close=how) as (_, link):
        await link.close()
    async with opened(kept=kept, close=how) as (backend, _):
        assert await do(backend, "say") == "done"
    assert executors.InProcess.made == 1
    kept.close()


@on_loop
async def test_a_session_that_comes_too_late_is_closed() -> None:
    """Its start was given up; it is not left behind."""
    kept = Factories()
    made = tool(open="blocks", startup_timeout=0.2)
    with pytest.raises(TransportFailure, match="startup_timeout"):
        await start(made, link_of(made, kept), [Era.LEGACY])
    executors.released.set()
    await until(lambda: "server" in executors.seen, description="it has been opened")
    await until(lambda: not executors.seen["server"].open, description="and closed")
    kept.close()


@on_loop
async def test_a_factory_serves_one_definition() -> None:
    """All its sessions; another one has another, and a thread that nobody uses any more ends."""
    kept = Factories()
    async with opened(kept=kept) as (one, _), opened(kept=kept) as (two, _):
        assert executors.InProcess.made == 1
        async with opened(kept=kept, changed=True) as (three, _):
            assert executors.InProcess.made == 2
            for backend in (one, two, three):
                assert await do(backend, "say") == "done"
    names = [thread.name for thread in threading.enumerate() if thread.name == "executor-own"]
    await until(
        lambda: sum(t.name == "executor-own" for t in threading.enumerate()) == 1,
        description=f"the thread of the old definition has ended ({names})",
    )
    kept.close()
    assert not any(thread.name == "executor-own" for thread in threading.enumerate())
