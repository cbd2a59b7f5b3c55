"""Log messages of a child that several callers share: they name no call, and must reach no other caller's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.domain.errors import ErrorCode
from common.domain.rules import Routing
from common.processes import ProcessGuard
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_worker.egress import parties as module
from gateway_worker.egress.parties import Parties
from tests.support.aio import on_loop, until
from tests.support.backends import EchoLog, entry_of, invocation, stdio_tool
from tests.worker.egress.stdio_links import connected, scripted
from tests.worker.session_desk import session_desk
from tests.worker.test_execute import Worker, code

CHILD = """
if m['method'] == 'initialize':
    info = {'name': 'logs', 'version': '1'}
    say(id=m['id'], result={'protocolVersion': '2025-11-25', 'capabilities': {}, 'serverInfo': info})
elif m['method'] == 'answered':
    say(id=m['id'], result={})
elif m['method'] == 'speak':
    say(method='notifications/message', params={'level': 'info', 'data': m['params']['text']})
"""
ANSWERS_LATE = """
elif m['method'] == 'notifications/cancelled':
    say(id=m['params']['requestId'], result={})
"""
ACME, OTHER = "acme:ci:", "other:ci:"


class Talk:
    """Calls that the child never answers, and what each heard."""

    def __init__(self, backend: Any, link: Any) -> None:
        self.backend, self.link = backend, link
        self.heard: dict[str, list[str]] = {}

    async def call(self, name: str, principal: str) -> asyncio.Task[Any]:
        """One that listens, by the time that it is at the child."""
        heard = self.heard[name] = []
        work = self.backend.call(
            "wait",
            {},
            principal=principal,
            on_notification=lambda _method, params: heard.append(params["data"]),
            on_settled=lambda: None,
        )
        task = asyncio.create_task(work, name=name)
        await self.backend.call("answered", {})
        return task

    async def said(self, text: str) -> list[str]:
        """The calls that heard the child say this."""
        await self.link.notify("speak", {"text": text})
        await self.backend.call("answered", {})
        return [name for name, heard in self.heard.items() if text in heard]


async def given_up(*tasks: asyncio.Task[Any]) -> None:
    """Their clients have left."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("late", [True, False])
def test_a_log_message_is_told_only_while_it_is_certain_whose_it_is(late: bool, guard: ProcessGuard) -> None:
    """To the youngest call of the only caller; to nobody beside another's, also one that was given up unanswered."""

    @on_loop
    async def scenario() -> None:
        child = CHILD.rstrip() + (ANSWERS_LATE if late else "")
        async with connected(scripted(child), guard) as (backend, link):
            talk = Talk(backend, link)
            first = await talk.call("first", ACME)
            assert await talk.said("alone") == ["first"]
            second = await talk.call("second", ACME)
            assert await talk.said("of one caller") == ["second"]
            other = await talk.call("other", OTHER)
            assert await talk.said("somebody's secret") == []
            await given_up(other)
            await backend.call("answered", {})
            assert await talk.said("behind its end") == (["second"] if late else [])
            await given_up(first, second)

    scenario()


@on_loop
async def test_the_next_caller_hears_nothing_of_the_one_before(guard: ProcessGuard) -> None:
    """The child may be at the call that was given up for as long as it likes."""
    async with connected(scripted(CHILD), guard) as (backend, link):
        talk = Talk(backend, link)
        await given_up(await talk.call("gone", ACME))
        task = await talk.call("next", OTHER)
        assert await talk.said("of the one who left") == []
        await given_up(task)


@on_loop
async def test_tenants_of_a_pool_do_not_hear_each_other_s_messages(
    guard: ProcessGuard, address: StoreAddress, keys: Keys, echo_log: EchoLog
) -> None:
    """As calls are made: while another tenant has one at the same child, nobody is told."""
    tool = stdio_tool(env=echo_log.env, routing=Routing.LEAST_LOADED, pool_size=1)
    async with session_desk(guard, address, keys) as desk:
        w = Worker(desk, keys, entry_of(tool))
        slow = asyncio.create_task(w.run(invocation("cancel_log", tenant="acme")))
        await until(lambda: echo_log.received("tools/call"), description="the slow call")
        await w.run(invocation("log", tenant="acme"))
        assert len(w.heard) == 1
        await w.run(invocation("log", tenant="other"))
        assert len(w.heard) == 1
        slow.cancel()
        assert code(await slow) is ErrorCode.INVOCATION_CANCELLED
        await w.run(invocation("log", tenant="other"))
        assert len(w.heard) == 1, "the child may be at the call that was given up"
        assert len(desk) == 1


def test_of_more_callers_than_are_told_apart_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no one caller, though they are remembered as one."""
    monkeypatch.setattr(module, "MOST_PARTIES", 2)
    parties = Parties()
    settled = [
        parties.enter("tools/call", number, f"p{number}", lambda *_: None, None) for number in range(4)
    ]
    for number, done in enumerate(settled[:2]):
        parties.leave(number)
        assert done is not None
        done()
    assert parties.listener() is None
    for number, done in enumerate(settled[2:], 2):
        parties.leave(number)
        assert done is not None
        done()
    parties.enter("tools/call", 9, "p9", print, None)
    assert parties.listener() is print
