"""A backend that refuses credentials: others are asked for, and the call is sent again once at most, with leave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import orjson
import pytest

from common.domain.circuit import Outcome, outcome_of
from common.domain.errors import ErrorCode
from common.domain.invocation import ExecutionResult
from common.domain.rules import Retry
from common.processes import ProcessGuard
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_worker.credentials import identity
from tests.support.aio import on_loop
from tests.support.backends import HttpBackend, entry_of, http_backend, http_tool, invocation, text_of
from tests.support.servers.echo_core import EchoServer
from tests.support.servers.echo_http import HttpServer
from tests.support.servers.http_wire import Connection, Request
from tests.worker.credentials.desk import Steered, by_caller, by_turns, credential_desk, with_credentials
from tests.worker.test_execute import Worker


class Guarded:
    """The echo server behind a door that knows which token is good, and refuses as a test says."""

    def __init__(self) -> None:
        self.good = "Bearer remote|acme|None|1"
        self.status = "401 Unauthorized"
        self.body = b'{"error": "invalid_token"}'
        self.only: str | None = None
        """The one method that is guarded; None: all of them."""
        self._server = HttpServer(EchoServer(era="both", pages=1))

    def handle(self, connection: Connection, request: Request) -> None:
        message = orjson.loads(request.body) if request.method == "POST" else {}
        guarded = self.only in (None, message.get("method"))
        if guarded and request.headers.get("authorization") != self.good:
            connection.respond(self.status, self.body, headers={"WWW-Authenticate": "Bearer"})
        else:
            self._server.handle(connection, request)


class Scene:
    """A worker whose tool is behind that door."""

    def __init__(self, worker: Worker, door: Guarded, backend: HttpBackend, provider: Steered) -> None:
        self.worker, self.door, self.backend, self.provider = worker, door, backend, provider

    async def call(self, leave: Retry = Retry.UNSENT) -> ExecutionResult:
        """One call."""
        return await self.worker.run(invocation("headers", tool="remote"), leave)

    def change(self, known: str = "2") -> None:
        """The good token is the second now, and the provider knows this one."""
        self.door.good, self.provider.answer = "Bearer remote|acme|None|2", by_caller(known)


@pytest.fixture
def scenes(
    guard: ProcessGuard, address: StoreAddress, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], AbstractAsyncContextManager[Scene]]:
    """Makes scenes; each is closed at its end."""
    monkeypatch.setattr(identity, "NEW_ANSWER_AFTER", 0.0)

    @asynccontextmanager
    async def made(mode: str = "required") -> AsyncIterator[Scene]:
        provider, door = Steered(by_caller("1")), Guarded()
        with http_backend(door.handle) as backend:
            tool = with_credentials(
                http_tool(backend.url), headers={"Authorization": "Bearer {key}"}, mode=mode
            )
            async with credential_desk(guard, address, keys, monkeypatch, provider) as (desk, _):
                yield Scene(Worker(desk, keys, entry_of(tool)), door, backend, provider)

    return made


Scenes = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.mark.parametrize("leave", [Retry.UNSENT, Retry.SAFE])
def test_a_session_that_cannot_begin_begins_with_others(leave: Retry, scenes: Scenes) -> None:
    """Nothing of the call was sent, so the usual leave is enough."""

    @on_loop
    async def scenario() -> None:
        async with scenes() as scene:
            scene.door.good = "Bearer remote|acme|None|2"
            scene.provider.answer = by_turns(iter(["1", "2", "2", "2"]))
            result = await scene.call(leave)
            assert orjson.loads(text_of(result.result))["authorization"] == scene.door.good
            assert len(scene.backend.sent("tools/call")) == 1

    scenario()


@pytest.mark.parametrize(
    ("leave", "again"), [(Retry.NEVER, False), (Retry.UNSENT, False), (Retry.SAFE, True)]
)
def test_a_call_that_was_refused_is_sent_again_with_leave_alone(
    leave: Retry, again: bool, scenes: Scenes
) -> None:
    """Its bytes were sent. Whatever becomes of it, the next call has a session with the new credentials."""

    @on_loop
    async def scenario() -> None:
        async with scenes() as scene:
            await scene.call()
            scene.door.only = "tools/call"
            scene.change()
            result = await scene.call(leave)
            assert result.answered == again
            if not again:
                assert result.failure is not None
                assert result.failure.code is ErrorCode.CREDENTIAL_UNAVAILABLE
                assert result.failure.data == {"reason": "refused", "http_status": 401}
                assert outcome_of(result) is Outcome.NEUTRAL
            assert (await scene.call()).answered

    scenario()


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_the_same_credentials_are_not_tried_twice(status: str, scenes: Scenes) -> None:
    """It is asked for others once; where there are none the session stays, for it may be about this call alone."""

    @on_loop
    async def scenario() -> None:
        async with scenes() as scene:
            await scene.call()
            scene.door.only, scene.door.status, scene.door.good = "tools/call", status, "none"
            (session,) = scene.worker.sessions.all()
            asked = len(scene.provider.asked)
            result = await scene.call(Retry.SAFE)
            assert result.failure is not None
            assert result.failure.code is ErrorCode.CREDENTIAL_UNAVAILABLE
            assert len(scene.provider.asked) == asked + 1
            assert len(scene.backend.sent("tools/call")) == 2
            assert scene.worker.sessions.all() == [session]

    scenario()


@on_loop
async def _loops(scenes: Scenes) -> None:
    async with scenes() as scene:
        scene.door.good = "none"
        scene.provider.answer = by_turns(map(str, range(1000)))
        result = await scene.call(Retry.SAFE)
        assert result.failure is not None
        assert result.failure.code is ErrorCode.CREDENTIAL_UNAVAILABLE
        assert len(scene.provider.asked) <= 4


def test_a_backend_that_refuses_everything_is_not_asked_for_ever(scenes: Scenes) -> None:
    """Also where the provider has another answer each time."""
    _loops(scenes)


def test_a_flood_of_refusals_asks_no_provider_all_the_time(
    scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A young answer is believed."""

    @on_loop
    async def scenario() -> None:
        async with scenes() as scene:
            monkeypatch.setattr(identity, "NEW_ANSWER_AFTER", 60.0)
            await scene.call()
            scene.door.only, scene.door.good = "tools/call", "none"
            for _ in range(5):
                await scene.call()
            assert len(scene.provider.asked) == 1

    scenario()


def test_a_refusal_in_the_backends_own_words_is_its_answer(scenes: Scenes) -> None:
    """A JSON-RPC error under 401: passed on as it is, if it is not sent again."""

    @on_loop
    async def scenario() -> None:
        async with scenes() as scene:
            await scene.call()
            scene.door.only, scene.door.good = "tools/call", "none"
            error = {"code": -32001, "message": "who are you?"}
            scene.door.body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "error": error})
            result = await scene.call()
            assert result.failure is not None
            assert result.failure.rpc == error
            scene.change()
            assert (await scene.call(Retry.SAFE)).result is not None

    scenario()
