"""What every transport of one's own must do.

class TestMine(ExecutorContract):
    def factory(self): return Mine({"port": self.server.port})
    def echoing(self, text): return "tools/call", {"name": "echo", "arguments": {"text": text}}
    slow = ("tools/call", {"name": "sleep", "arguments": {"seconds": 60}})
    telling = ("tools/call", {"name": "progress", "arguments": {"steps": 3}})
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import orjson

from common.contracts import require
from common.ports import ExecutorFactory, RemoteError, ToolExecutor

T = TypeVar("T")
Sent = tuple[str, Mapping[str, Any]]
"""A method and its params."""
_INITIALIZE: Sent = (
    "initialize",
    {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "contract", "version": "1"}},
)
_DISCOVER: Sent = (
    "server/discover",
    {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "contract", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
)


class Session:
    """Implements :class:`common.ports.ExecutorSession`, and keeps what it is told."""

    tool = "a-tool"
    max_bytes = 1 << 20

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.secrets: Mapping[str, str] = dict(secrets)
        self.told: list[Sent] = []
        self.broken = False

    def may_send(self) -> bool:
        """It is nobody else's."""
        return True

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Keep it."""
        self.told.append((method, params))

    async def ask(self, method: str, params: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002 - the port's
        """There is nobody who could be asked."""
        raise RemoteError(-32601, f"not supported by this client: {method}")

    def lost(self) -> None:
        """Note it."""
        self.broken = True


class Call:
    """Implements :class:`common.ports.ExecutorCall`."""

    def __init__(self, session: Session, method: str, params: Mapping[str, Any]) -> None:
        self.method = method
        self.params: dict[str, Any] = orjson.loads(orjson.dumps(dict(params)))
        self.told: list[Sent] = []
        self.ask = session.ask

    def tell(self, method: str, params: Mapping[str, Any]) -> None:
        """Keep it."""
        self.told.append((method, params))

    def progress(self, progress: float, total: float | None = None, message: str = "") -> None:
        """As the gateway would have it told."""
        token = (self.params.get("_meta") or {}).get("progressToken")
        more = {"total": total, "message": message}
        self.tell("notifications/progress", {"progressToken": token, "progress": progress, **more})


class ExecutorContract:
    """The tests. Give :meth:`factory`, :meth:`echoing` and :attr:`slow`; what is not given is not tested."""

    __test__ = False
    patience = 10.0
    """Seconds within which things must happen."""
    secrets: Mapping[str, str] = {}
    """What each session is given."""
    unknown: Sent = ("no/such/method", {})
    """What the backend answers with an error."""
    slow: Sent = ("", {})
    """What it does not answer for a minute."""
    telling: Sent | None = None
    """What it tells the progress of."""

    def __init_subclass__(cls) -> None:
        """A subclass is a test."""
        cls.__test__ = True

    def factory(self) -> ExecutorFactory:
        """A new factory; it is called on an event loop of its own."""
        raise NotImplementedError

    def echoing(self, text: str) -> Sent:
        """A request whose result holds this text somewhere."""
        raise NotImplementedError

    def break_it(self) -> None:
        """Have the backend of all sessions die. Not given: that is not tested."""
        raise NotImplementedError

    def test_it_opens_a_session(self) -> None:
        """It takes a backend's handshake, and the answers are mappings that JSON can hold."""

        async def scenario() -> None:
            async with self._opened() as (executor, session):
                found = await self._asked(executor, session, self.echoing("hello"))
                require(isinstance(found, Mapping), f"{type(found).__name__} is no mapping")
                require("hello" in json.dumps(dict(found)), "the result is not that of the request")

        _run(scenario())

    def test_each_request_has_its_own_answer(self) -> None:
        """Many at a time."""

        async def scenario() -> None:
            async with self._opened() as (executor, session):
                texts = [f"<{number}>" for number in range(50)]
                found = await asyncio.gather(
                    *(self._asked(executor, session, self.echoing(text)) for text in texts)
                )
                for text, answer in zip(texts, found, strict=True):
                    require(text in json.dumps(dict(answer)), f"{text}: answered with another's result")

        _run(scenario())

    def test_an_error_of_the_backend_is_an_answer(self) -> None:
        """RemoteError, and the session stands."""

        async def scenario() -> None:
            async with self._opened() as (executor, session):
                try:
                    found = await self._asked(executor, session, self.unknown)
                except RemoteError as error:
                    require(type(error.error.get("code")) is int, "the error has no code")
                    require(isinstance(error.error.get("message"), str), "the error has no message")
                else:
                    require(False, f"it must raise RemoteError, not answer {found!r}")
                await self._asked(executor, session, self.echoing("still there"))
                require(not session.broken, "it says that the session is lost")

        _run(scenario())

    def test_a_cancelled_request_ends(self) -> None:
        """Soon, and the session stands."""

        async def scenario() -> None:
            async with self._opened() as (executor, session):
                task = asyncio.create_task(executor.request(Call(session, *self.slow)))
                await self._asked(executor, session, self.echoing("before"))
                require(not task.done(), "`slow` is not slow")
                task.cancel()
                _, pending = await asyncio.wait([task], timeout=self.patience)
                require(not pending, "it goes on although it was cancelled")
                require(task.cancelled(), "it must end as cancelled")
                await self._asked(executor, session, self.echoing("after"))

        _run(scenario())

    def test_progress_is_told_to_its_request(self) -> None:
        """While it runs, under its token."""
        if self.telling is None:
            return
        method, params = self.telling

        async def scenario() -> None:
            async with self._opened() as (executor, session):
                other = Call(session, *self.slow)
                task = asyncio.create_task(executor.request(other))
                call = Call(session, method, {**params, "_meta": {"progressToken": 7}})
                await self._within(executor.request(call))
                told = [params for method, params in call.told if method == "notifications/progress"]
                require(len(told) > 1, "no progress was told")
                require(all(params.get("progressToken") == 7 for params in told), "it is another's progress")
                steps = [params["progress"] for params in told]
                require(steps == sorted(set(steps)), f"progress must grow, not {steps}")
                require(not other.told, "another request was told")
                await _cancelled(task)

        _run(scenario())

    def test_sessions_are_apart(self) -> None:
        """Several of one factory; the end of one is nothing to the others."""

        async def scenario() -> None:
            factory = self.factory()
            async with self._opened(factory) as (one, session):
                async with self._opened(factory) as (other, others):
                    await self._asked(other, others, self.echoing("other"))
                await self._asked(one, session, self.echoing("one"))
                require(not session.broken, "it says that the session is lost")

        _run(scenario())

    def test_closing_lets_go(self) -> None:
        """Within two seconds, also while a request is under way; nothing is answered any more, or waited for."""

        async def scenario() -> None:
            session = Session(self.secrets)
            executor = await self._within(self.factory().open(session))
            await self._shake_hands(executor, session)
            task = asyncio.create_task(executor.request(Call(session, *self.slow)))
            await self._asked(executor, session, self.echoing("before"))
            await asyncio.wait_for(executor.close(), 2)
            await _cancelled(task)
            late = asyncio.create_task(executor.request(Call(session, *self.echoing("late"))))
            _, pending = await asyncio.wait([late], timeout=self.patience)
            require(not pending, "a request of a closed session waits for ever")
            require(late.cancelled() or late.exception() is not None, "a closed session still answers")

        _run(scenario())

    def test_a_dead_backend_ends_what_waits_for_it(self) -> None:
        """With any exception but the backend's own; the next session is another."""
        if type(self).break_it is ExecutorContract.break_it:
            return

        async def scenario() -> None:
            factory = self.factory()
            session = Session(self.secrets)
            executor = await self._within(factory.open(session))
            await self._shake_hands(executor, session)
            task = asyncio.create_task(executor.request(Call(session, *self.slow)))
            await self._asked(executor, session, self.echoing("before"))
            await asyncio.to_thread(self.break_it)
            _, pending = await asyncio.wait([task], timeout=self.patience)
            require(not pending, "it waits for a backend that is dead")
            fault = None if task.cancelled() else task.exception()
            require(fault is not None, "a dead backend does not answer")
            require(not isinstance(fault, RemoteError), "nobody has answered with this error")
            await asyncio.wait_for(executor.close(), 2)
            async with self._opened(factory) as (again, another):
                await self._asked(again, another, self.echoing("again"))

        _run(scenario())

    def test_no_secret_shows_itself(self) -> None:
        """In what is written of a factory or an executor."""

        async def scenario() -> None:
            factory = self.factory()
            async with self._opened(factory) as (executor, _):
                shown = f"{factory!r} {factory} {executor!r} {executor}"
                require(not any(value in shown for value in self.secrets.values()), "a secret shows itself")

        _run(scenario())

    @asynccontextmanager
    async def _opened(
        self, factory: ExecutorFactory | None = None
    ) -> AsyncIterator[tuple[ToolExecutor, Session]]:
        session = Session(self.secrets)
        executor = await self._within((factory or self.factory()).open(session))
        try:
            await self._shake_hands(executor, session)
            yield executor, session
        finally:
            await asyncio.wait_for(executor.close(), 2)

    async def _shake_hands(self, executor: ToolExecutor, session: Session) -> None:
        try:
            await self._asked(executor, session, _INITIALIZE)
        except RemoteError:
            await self._asked(executor, session, _DISCOVER)
        else:
            await self._within(executor.notify("notifications/initialized", {}))

    async def _asked(self, executor: ToolExecutor, session: Session, sent: Sent) -> Mapping[str, Any]:
        return await self._within(executor.request(Call(session, *sent)))

    async def _within(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(self.patience):
            return await work


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with suppress(BaseException):
        await asyncio.wait_for(task, 5)


def _run(work: Coroutine[object, object, T]) -> T:
    """On a loop of its own, whatever runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
