"""A backend's own requests: each has one answer, also if nobody can give it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.domain.errors import TransportFailure
from gateway_worker.egress.asked import MOST_AT_ONCE, Asked
from gateway_worker.egress.link import RpcError
from tests.support.aio import on_loop


class Backend:
    """What it was answered; a gate before it; a client that answers when told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.open = True
        self.asked = Asked(self.told.append, lambda: self.open)
        self.release = asyncio.Event()

    async def client(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Wait, then say what was asked."""
        await self.release.wait()
        if method == "refuse":
            raise RpcError({"code": -5, "message": "no"})
        if method == "break":
            raise TransportFailure("broken")
        if method == "fault":
            raise RuntimeError("secret")
        return {"method": method, **params}

    def ask(self, request_id: object, method: str = "m", **params: Any) -> None:
        """A request of the backend."""
        self.asked.ask({"id": request_id, "method": method, "params": params}, self.client)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


@on_loop
async def test_answers_have_the_ids_of_their_requests() -> None:
    """Of whatever type; 1 and "1" are two."""
    backend = Backend()
    for request_id in (1, "1", 1.5, None, [1]):
        backend.ask(request_id, a=1)
    backend.release.set()
    await settle()
    assert [answer["id"] for answer in backend.told] == [1, "1", 1.5, None, [1]]
    assert all(answer["result"] == {"method": "m", "a": 1} for answer in backend.told)


@on_loop
async def test_a_ping_waits_for_nobody() -> None:
    """It asks about the way."""
    backend = Backend()
    backend.ask(7, "ping")
    assert backend.told == [{"jsonrpc": "2.0", "id": 7, "result": {}}]


@pytest.mark.parametrize(
    ("method", "code", "words"),
    [("refuse", -5, "no"), ("break", -32603, "broken"), ("fault", -32603, "the gateway failed")],
)
def test_what_goes_wrong_is_an_error(method: str, code: int, words: str) -> None:
    """The client's own, or one that tells nothing of our inside."""

    @on_loop
    async def scenario() -> None:
        backend = Backend()
        backend.ask(1, method)
        backend.release.set()
        await settle()
        assert backend.told == [{"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": words}}]

    scenario()


@on_loop
async def test_a_request_that_is_withdrawn_has_no_answer() -> None:
    """As the protocol has it; others go on."""
    backend = Backend()
    backend.ask("a")
    backend.ask("b")
    await settle()
    backend.asked.withdraw({"requestId": "a"})
    backend.asked.withdraw({"requestId": "unknown"})
    backend.asked.withdraw({})
    backend.release.set()
    await settle()
    assert [answer["id"] for answer in backend.told] == ["b"]


@on_loop
async def test_a_question_whose_call_has_ended_is_answered_all_the_same() -> None:
    """The backend must not wait for ever."""
    backend = Backend()
    backend.ask("a")
    await settle()
    for task in backend.asked._tasks.values():
        task.cancel()
    await settle()
    assert backend.told[0]["error"]["message"] == "the call has ended"


@on_loop
async def test_an_answer_waits_for_the_gate() -> None:
    """A worker that is not sure of its session sends nothing, and loses no answer."""
    backend = Backend()
    backend.open = False
    backend.ask(1)
    backend.release.set()
    await settle()
    assert backend.told == []
    backend.open = True
    await asyncio.sleep(0.1)
    assert len(backend.told) == 1


@on_loop
async def test_requests_are_bounded_and_end_with_the_link() -> None:
    """One of an id at a time, and so many altogether."""
    backend = Backend()
    backend.ask(0)
    backend.ask(0)
    for number in range(1, MOST_AT_ONCE + 1):
        backend.ask(number)
    assert [answer["id"] for answer in backend.told] == [0, MOST_AT_ONCE]
    assert all("too many" in answer["error"]["message"] for answer in backend.told)
    await settle()
    backend.asked.close()
    await settle()
    assert len(backend.told) == 2
