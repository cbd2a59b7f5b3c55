"""Names are looked up beside everything else, each once at a time, and a name server that is silent stops nobody."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway_worker.egress import resolving
from gateway_worker.egress.http_pool import OWN_FILE, dial
from gateway_worker.egress.resolving import resolver
from tests.support.aio import on_loop, until
from tests.support.servers.raw_http import ok, raw_server
from tests.worker.egress.http_clients import saying

_REAL = socket.getaddrinfo


@dataclass
class Names:
    """``here.example`` is this machine; ``silent.example`` has no answer until ``speak``, and is unknown then."""

    asked: list[str] = field(default_factory=list)
    speak: threading.Event = field(default_factory=threading.Event)

    def __call__(self, host: Any, port: Any, *args: Any, **more: Any) -> list[Any]:
        if more.get("flags", 0) & socket.AI_NUMERICHOST or not str(host).endswith(".example"):
            return _REAL(host, port, *args, **more)
        self.asked.append(host)
        if host == "silent.example":
            assert self.speak.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "silent")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port or 0))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield found
    found.speak.set()


def dials(names: Names, *ports: int) -> list[asyncio.Task[socket.socket]]:
    """To a name that has no answer."""
    return [asyncio.create_task(dial("silent.example", port, OWN_FILE)) for port in ports]


@on_loop
async def test_a_name_that_hangs_keeps_nobody_else_waiting(names: Names) -> None:
    """One thread is lost to it, none of the loop's own, and all who asked have the one answer."""
    async with raw_server(saying(ok(b"hi"))) as server:
        waiting = dials(names, *range(1, 41))
        await until(lambda: names.asked, description="the look-up")
        try:
            async with asyncio.timeout(5):
                (await dial("here.example", server.port, OWN_FILE)).close()
                assert await asyncio.to_thread(lambda: "done") == "done"
            assert not any(task.done() for task in waiting)
            assert names.asked == ["silent.example", "here.example"]
        finally:
            names.speak.set()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(answer) for answer in answers} == {socket.gaierror}


@on_loop
async def test_who_leaves_takes_the_answer_from_nobody(names: Names) -> None:
    """Nor does a look-up hang on whoever came first."""
    first, second = dials(names, 1, 2)
    await until(lambda: names.asked, description="the look-up")
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert not second.done()
    names.speak.set()
    with pytest.raises(socket.gaierror):
        await second
    assert names.asked == ["silent.example"]


@on_loop
async def test_who_leaves_a_look_up_that_has_no_thread_yet(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made all the same: for those who are left, and those who come."""
    monkeypatch.setattr(resolving, "MOST_THREADS", 1)
    narrow = resolving.Resolver()
    silent = asyncio.create_task(narrow.addresses("silent.example", 1))
    await until(lambda: names.asked, description="the look-up")
    first, second = (asyncio.create_task(narrow.addresses("here.example", port)) for port in (1, 2))
    await until(lambda: "here.example" in narrow._under_way, description="the other one")
    first.cancel()
    await asyncio.wait([first])
    names.speak.set()
    assert [entry[4] for entry in await second] == [("127.0.0.1", 2)]
    with pytest.raises(socket.gaierror):
        await silent
    assert narrow._under_way == {}
    narrow._threads.shutdown()


@on_loop
async def test_an_answer_is_kept_for_nobody(names: Names) -> None:
    """Neither a good one nor an error; who comes after it asks again."""
    names.speak.set()
    async with raw_server(saying(ok(b"hi"))) as server:
        for _ in range(2):
            (await dial("here.example", server.port, OWN_FILE)).close()
            with pytest.raises(socket.gaierror):
                await dial("silent.example", 1, OWN_FILE)
    assert names.asked == ["here.example", "silent.example"] * 2
    assert resolver._under_way == {}


def test_a_loop_that_ends_leaves_its_look_up_to_the_next(names: Names) -> None:
    """What is under way belongs to no loop."""

    async def leave() -> None:
        (task,) = dials(names, 1)
        await until(lambda: names.asked, description="the look-up")
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(leave())

    @on_loop
    async def scenario() -> None:
        (task,) = dials(names, 2)
        await asyncio.sleep(0)
        names.speak.set()
        with pytest.raises(socket.gaierror):
            await task

    scenario()
    assert names.asked == ["silent.example"]
