"""A client whose roots are others now: the backends that were given them are told, and get the new ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from common.domain.ids import McpSessionId, ToolId
from common.domain.invocation import Invocation
from common.mcp.revisions import Era
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker import roots as roots_module
from gateway_worker.claims import Claim
from gateway_worker.conversation import CallClock, Conversation
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import RpcError
from gateway_worker.roots import CHANGED, ROOTS, RootsNews
from gateway_worker.tool_session import SessionKey, ToolSession
from gateway_worker.watches import Watches, WatchStore
from tests.support.aio import on_loop, until
from tests.support.backends import stdio_tool
from tests.worker import test_conversation
from tests.worker.test_conversation import call_of
from tests.worker.test_watching import Resources, negotiated

ONE = McpSessionId("one")
HEARS = '{"roots":{"listChanged":true}}'
NEW = {"roots": [{"uri": "file:///new"}]}


class Rooted(Resources):
    """A backend that asks for the roots when it hears that they are others, over stdio: nothing says whose they are."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = 0
        self.asks = [ROOTS]
        self.answers: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def notify(self, method: str, params: dict[str, Any], **_: Any) -> None:
        """It is told."""
        assert method == CHANGED
        self.heard += 1
        for question in self.asks:
            task = asyncio.create_task(self._ask(question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(self, question: str) -> None:
        try:
            self.answers.append(await self.on_request(question, {}))
        except RpcError as error:
            self.answers.append(error.error["message"])


class Place:
    """A tool session, and the client behind it."""

    def __init__(
        self,
        here: test_conversation.Place,
        session: ToolSession,
        link: Rooted,
        news: RootsNews,
        client: Client,
    ) -> None:
        self.here, self.session, self.link, self.news = here, session, link, news
        self._client = client

    def listen(self) -> None:
        """The client has its standing stream."""
        self._client.set(self.here.keys.session_holder(ONE), "some process", ex=60)

    def changed(self) -> None:
        """It says so."""
        self.news.hear(ONE.encode())

    def stream(self) -> list[Any]:
        """What it was told on its standing stream."""
        entries: Any = self._client.xrange(self.here.keys.session_stream(ONE))
        return [orjson.loads(fields[b"m"]) for _, fields in entries]

    async def asked(self, number: int = 1) -> str:
        """The id of what it was asked."""
        await until(lambda: len(self.stream()) >= number, description="the question")
        message = self.stream()[number - 1]
        assert message["method"] == ROOTS
        return str(message["id"])

    async def answer(self, name: str) -> bool:
        """It answers."""
        return await self.here.give(of_one(), name, {"result": NEW})


@asynccontextmanager
async def place(
    address: StoreAddress,
    keys: Keys,
    client: Client,
    *,
    profile: str = HEARS,
    era: Era = Era.LEGACY,
    owner: str = f"t:c:{ONE}",
) -> AsyncIterator[Place]:
    """An open session that nobody is at."""
    async with test_conversation.place(address, keys, client) as here:
        redis, outbox = here.asking._redis, here.asking._outbox
        watches = Watches(WatchStore(redis, keys, outbox, session_idle=60), ToolId("local"), "s")
        key = SessionKey(ToolId("local"), owner, "digest", era, profile)
        session = ToolSession(key, stdio_tool(), Claim(ToolId("local"), "s", 1), lambda *_: None, watches)
        link = Rooted()
        link.on_request = session._asked
        session._ready.set_result(Backend(link, negotiated(era, {})))
        yield Place(here, session, link, RootsNews(lambda: [session], here.asking, redis, keys), client)


def of_one() -> Invocation:
    """A call of the client."""
    return replace(call_of(), mcp_session=ONE)


@on_loop
async def test_the_backend_is_told_and_given_the_new_ones(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """By the client's standing stream, though it makes no call."""
    async with place(address, keys, client) as at:
        at.listen()
        at.session._note_roots(of_one())
        at.changed()
        assert await at.answer(await at.asked())
        await until(lambda: at.link.answers, description="the backend to have them")
        assert (at.link.heard, at.link.answers) == (1, [NEW])
        await until(lambda: not at.news._telling, description="the session to be everybody's again")


@on_loop
async def test_whose_roots_a_backend_has_is_known_from_the_calls(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Whoever was asked for them. Nobody else's changes are told."""
    async with place(address, keys, client) as at, asyncio.timeout(20) as limit:
        at.changed()
        assert not at.news._telling
        call = replace(
            of_one(), params={"_meta": {test_conversation.META + "clientCapabilities": {"roots": {}}}}
        )
        conversation = Conversation(at.here.asking, at.here.hold(call), call, CallClock(limit), seconds=10)
        async with at.session.talking(ONE, conversation):
            question = asyncio.create_task(at.session._asked(ROOTS, {}))
            _, request = await at.here.asked()
            assert at.session.rooted == {}
            assert await at.here.give(call, request["id"], {"result": NEW})
            assert await question == NEW
        conversation.close()
        assert at.session.rooted == {ONE: call.caller.principal}


@pytest.mark.parametrize(
    ("profile", "era"), [('{"roots":{}}', Era.LEGACY), ('{"sampling":{}}', Era.LEGACY), (HEARS, Era.MODERN)]
)
def test_who_was_not_told_to_listen_hears_nothing(
    profile: str, era: Era, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """The client did not declare that it tells; or it is no word of the backend's era."""

    @on_loop
    async def scenario() -> None:
        async with place(address, keys, client, profile=profile, era=era) as at:
            at.listen()
            at.session._note_roots(of_one())
            at.changed()
            await until(lambda: not at.news._telling, description="nothing to be under way")
            assert at.link.heard == 0

    scenario()


@on_loop
async def test_nobody_is_asked_who_does_not_listen(address: StoreAddress, client: Client, keys: Keys) -> None:
    """Without a standing stream the backend is told, and refused at once: no call of others waits for that."""
    async with place(address, keys, client) as at:
        at.session._note_roots(of_one())
        at.changed()
        await until(lambda: at.link.answers, description="the refusal")
        assert at.link.heard == 1
        assert isinstance(at.link.answers[0], str)
        assert at.stream() == []


@pytest.mark.parametrize("owner", ["t:c", "*0"])
def test_a_session_that_others_use_hears_nothing(
    owner: str, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """What it asked then could be asked of one of them."""

    @on_loop
    async def scenario() -> None:
        async with place(address, keys, client, owner=owner) as at:
            at.listen()
            at.session._note_roots(of_one())
            at.changed()
            assert not at.news._telling
            assert at.link.heard == 0

    scenario()


@on_loop
async def test_nothing_else_is_asked_then(address: StoreAddress, client: Client, keys: Keys) -> None:
    """It belongs to no call."""
    async with place(address, keys, client) as at:
        at.link.asks = ["elicitation/create", ROOTS]
        at.listen()
        at.session._note_roots(of_one())
        at.changed()
        await at.answer(await at.asked())
        await until(lambda: len(at.link.answers) == 2, description="both answers")
        assert sorted(at.link.answers, key=str) == ["no call is here that this could belong to", NEW]


@on_loop
async def test_a_call_of_the_client_that_is_there_takes_nothing_of_it(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """It may end before the client has answered. What else is asked meanwhile is the call's."""
    async with place(address, keys, client) as at, asyncio.timeout(20) as limit:
        at.link.asks = [ROOTS, "elicitation/create"]
        at.listen()
        at.session._note_roots(of_one())
        call = of_one()
        conversation = Conversation(at.here.asking, at.here.hold(call), call, CallClock(limit), seconds=10)
        async with at.session.talking(ONE, conversation):
            at.changed()
            name = await at.asked()
            _, request = await at.here.asked()
            assert request["method"] == "elicitation/create"
            assert await at.here.give(call, request["id"], {"result": {"action": "accept"}})
            await until(lambda: at.link.answers, description="the call's answer")
        conversation.close()
        assert await at.answer(name)
        await until(lambda: len(at.link.answers) == 2, description="the roots")
        assert at.link.answers == [{"action": "accept"}, NEW]


@on_loop
async def test_changes_while_a_backend_is_told_are_one_more(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """However many there are."""
    async with place(address, keys, client) as at:
        at.listen()
        at.session._note_roots(of_one())
        at.changed()
        first = await at.asked()
        for _ in range(5):
            at.changed()
        await at.answer(first)
        await at.answer(await at.asked(2))
        await until(lambda: not at.news._telling, description="the end")
        assert (at.link.heard, at.link.answers) == (2, [NEW, NEW])


@on_loop
async def test_a_client_that_does_not_answer_keeps_the_session_for_a_moment_only(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a backend that does not ask; the calls of others come then. What is not needed is taken back."""
    monkeypatch.setattr(roots_module, "ANSWERED_WITHIN", 0.1)
    monkeypatch.setattr(roots_module, "ASKED_WITHIN", 0.1)
    async with place(address, keys, client) as at:
        at.listen()
        at.session._note_roots(of_one())
        for asks in ([ROOTS], []):
            at.link.asks = asks
            at.changed()
            await until(
                lambda: at.session.turns is not None and at.session.turns._present, description="its turn"
            )
            other = Conversation.__new__(Conversation)
            async with asyncio.timeout(10), at.session.talking("other", other):
                pass
        assert at.link.answers == ["the client did not answer"]
        name = at.stream()[0]["id"]
        await until(lambda: len(at.stream()) == 2, description="the question to be taken back")
        assert at.stream()[1]["params"]["requestId"] == name
        assert not await at.answer(name)
