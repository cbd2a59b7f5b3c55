"""Asking a call's client: who may answer, whose time runs, and what is left of it behind the call's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import orjson
import pytest
from redis import Redis

from common.calls.client_answers import ClientAnswers, answerer
from common.calls.contract import task_message
from common.domain.errors import StoreUnavailable
from common.domain.ids import ClientId, InvocationId
from common.domain.invocation import Invocation
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from common.store.scripts import script
from common.store.shared import SharedConnection
from gateway_worker import asking as asking_module
from gateway_worker.asking import Asking
from gateway_worker.conversation import CallClock, Conversation
from gateway_worker.delivery import Held, Taken
from gateway_worker.egress.link import RpcError
from gateway_worker.listener import Listener
from gateway_worker.message import read_message
from gateway_worker.node import Node
from gateway_worker.outbox import Outbox
from tests.support.aio import on_loop, until
from tests.support.backends import invocation
from tests.support.messages import head

META = "io.modelcontextprotocol/"
DECLARED = {META + "clientCapabilities": {"sampling": {}, "elicitation": {}}}
CHANNEL = "test:reply:web"
ELSEWHERE = "test:reply:other"


class Place:
    """A worker's side of asking, with what it published, and a web process that answers."""

    def __init__(self, node: Node, asking: Asking, answers: ClientAnswers, heard: Redis, keys: Keys) -> None:
        self.node, self.asking, self.answers, self.keys = node, asking, answers, keys
        self._pubsub = heard.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(CHANNEL, ELSEWHERE)
        self._pubsub.get_message(timeout=1)

    def hold(self, call: Invocation) -> Held:
        """The call as the worker holds it."""
        of = head(call.id, reply=CHANNEL)
        taken = Taken(node=self.node.id, tag="1", raw=b"", queue=of.queue, verdict=b"held", token=1)
        return Held(
            taken=taken, head=of, message=read_message(task_message(call, of, prefix="test"), of.queue)
        )

    async def frame(self) -> tuple[str, dict[str, Any]]:
        """The next frame, and its channel."""
        found: list[Any] = []

        def got() -> bool:
            message = self._pubsub.get_message(timeout=0)
            if message is not None:
                found.append(message)
            return bool(found)

        await until(got, description="a frame")
        _, _, data = found[0]["data"].partition(b" ")
        return found[0]["channel"].decode(), orjson.loads(data)

    async def asked(self) -> tuple[str, dict[str, Any]]:
        """The next request to a client, and its channel."""
        channel, frame = await self.frame()
        request: dict[str, Any] = frame["request"]
        return channel, request

    async def give(self, call: Invocation, name: str, response: Any = None, **options: Any) -> bool:
        """Answer as the call's client."""
        who = answerer(call.mcp_session, call.caller.principal)
        return await asyncio.to_thread(self.answers.give, who, name, response, **options)


@asynccontextmanager
async def place(address: StoreAddress, keys: Keys, client: Client) -> AsyncIterator[Place]:
    """Everything that runs in a worker for it."""
    node, redis = Node("test"), PipelinedConnection(address)
    outbox = Outbox(redis, keys, result_ttl=60)
    asking = Asking(node, redis, keys, outbox)
    listener = Listener(address, {keys.answer_channel(node.id): asking.hear})
    tasks = [asyncio.create_task(work) for work in (outbox.run(), asking.run(), listener.run())]
    with closing(SharedConnection(address)) as connection:
        try:
            yield Place(node, asking, ClientAnswers(connection, keys), client, keys)
            await outbox.flushed(5)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await redis.aclose()


def call_of(**meta: Any) -> Invocation:
    """A call whose client declared something."""
    return invocation("echo", {"text": "x"}, meta={**DECLARED, **meta})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not answered is sent again soon."""
    monkeypatch.setattr(asking_module, "LOOK", 0.05)


@on_loop
async def test_a_question_and_its_answer(address: StoreAddress, client: Client, keys: Keys) -> None:
    """A result is a result, an error an error, and nothing is left in Redis."""
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        for response in ({"result": {"n": 1}}, {"error": {"code": -1, "message": "no"}}):
            question = asyncio.create_task(conversation.ask("sampling/createMessage", {"p": [1]}))
            channel, request = await here.asked()
            assert (channel, request["method"], request["params"]) == (
                CHANNEL,
                "sampling/createMessage",
                {"p": [1]},
            )
            assert not await asyncio.to_thread(
                here.answers.give, "principal:stranger", request["id"], response
            )
            assert await here.give(call, request["id"], response)
            if "result" in response:
                assert await question == {"n": 1}
            else:
                with pytest.raises(RpcError) as caught:
                    await question
                assert caught.value.error == response["error"]
        conversation.close()
    assert client.keys("test:server-request:*") == []


@on_loop
async def test_an_answer_of_which_nothing_was_heard_is_found(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker looks by itself."""
    monkeypatch.setattr(Asking, "hear", lambda *_: None)
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        question = asyncio.create_task(conversation.ask("sampling/createMessage", {}))
        _, request = await here.asked()
        assert await here.give(call, request["id"], {"result": {}})
        assert await question == {}
        conversation.close()


@on_loop
async def test_an_answer_is_delivered_though_the_reading_of_another_failed(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke between them; the other is found by the next look."""
    monkeypatch.setattr(Asking, "hear", lambda *_: None)
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        questions = [asyncio.create_task(conversation.ask("sampling/createMessage", {})) for _ in range(3)]
        names = [(await here.asked())[1]["id"] for _ in questions]
        broken = {keys.client_answer(names[1])}
        command = PipelinedConnection.command

        async def breaks(redis: PipelinedConnection, *words: Any) -> Any:
            if broken & set(words):
                raise StoreUnavailable("the connection to Redis broke")
            return await command(redis, *words)

        monkeypatch.setattr(PipelinedConnection, "command", breaks)
        for number, name in enumerate(names):
            assert await here.give(call, name, {"result": {"n": number}})
        assert [await questions[0], await questions[2]] == [{"n": 0}, {"n": 2}]
        broken.clear()
        assert await questions[1] == {"n": 1}
        conversation.close()
        gone = [keys.client_answer(name) for name in names]
        await until(lambda: not client.exists(*gone), description="the answers to be taken away")


@on_loop
async def test_an_answer_whose_reading_broke_is_not_lost(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis did what it was told, and that was not heard: whatever that was, the answer lies there still."""
    monkeypatch.setattr(Asking, "hear", lambda *_: None)
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        question = asyncio.create_task(conversation.ask("sampling/createMessage", {}))
        _, request = await here.asked()
        command, lost = PipelinedConnection.command, []

        async def loses_one(redis: PipelinedConnection, *words: Any) -> Any:
            found = await command(redis, *words)
            if keys.client_answer(request["id"]) in words and found and not lost:
                lost.append(found)
                raise StoreUnavailable("the connection to Redis broke")
            return found

        monkeypatch.setattr(PipelinedConnection, "command", loses_one)
        assert await here.give(call, request["id"], {"result": {"n": 1}})
        assert await question == {"n": 1}
        assert lost
        conversation.close()


@on_loop
async def test_an_answer_that_is_read_twice_counts_once(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies there until it is taken away. Whoever takes a call over is asked once more, by the same id."""
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        held = here.hold(call)
        conversation = Conversation(here.asking, held, call, CallClock(limit), seconds=10)
        questions = [asyncio.create_task(conversation.ask("sampling/createMessage", {})) for _ in range(2)]
        first, second = [(await here.asked())[1]["id"] for _ in questions]
        kept: list[Any] = []
        put = here.asking._outbox.put

        def keeps(*commands: Any) -> None:
            taken = [c for c in commands if c[0] == "EVAL"]
            kept.extend(taken)
            put(*(c for c in commands if c[0] != "EVAL"))

        monkeypatch.setattr(here.asking._outbox, "put", keeps)
        assert await here.give(call, first, {"result": {"n": 1}})
        assert await questions[0] == {"n": 1}
        assert await here.give(call, call.id, None, reply=ELSEWHERE)
        for _ in range(2):
            channel, request = await here.asked()
            assert (channel, request["id"]) == (ELSEWHERE, second)
        assert await here.give(call, second, {"result": {"n": 2}})
        assert await questions[1] == {"n": 2}
        conversation.close()
        put(*kept)


@on_loop
async def test_an_answer_is_taken_away_before_what_it_causes_is_sent(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lays the same one again between the two would have it taken away unread, and be told of nothing."""
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        question = asyncio.create_task(conversation.ask("sampling/createMessage", {}))
        _, request = await here.asked()
        put = here.asking._outbox.put
        sent: list[Any] = []

        def noted(*commands: Any) -> None:
            sent.extend(command[0] for command in commands)
            put(*commands)

        monkeypatch.setattr(here.asking._outbox, "put", noted)
        assert await here.give(call, call.id, None, reply=ELSEWHERE)
        channel, _ = await here.asked()
        assert channel == ELSEWHERE
        assert sent[0] == "EVAL"
        assert len(sent) > 1
        assert await here.give(call, request["id"], {"result": {}})
        await question
        conversation.close()


@on_loop
async def test_a_second_taking_over_is_not_swept_away_with_the_first(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """It was laid in the place of the first, after that was read and before it was taken away."""
    async with place(address, keys, client) as here:
        name = keys.client_answer("x")
        source = script("client_answer_taken").source
        client.set(name, b"second")
        here.asking._outbox.put(("EVAL", source, 1, name, b"first"))
        await here.asking._outbox.flushed(5)
        assert client.get(name) == b"second"
        here.asking._outbox.put(("EVAL", source, 1, name, b"second"))
        await here.asking._outbox.flushed(5)
        assert not client.exists(name)


@on_loop
async def test_what_nobody_answers_is_sent_again(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message on a channel may be lost, and Redis may have forgotten who was asked."""
    monkeypatch.setattr(asking_module, "AGAIN_FIRST", 0.05)
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        question = asyncio.create_task(conversation.ask("sampling/createMessage", {}))
        _, first = await here.asked()
        client.flushdb()
        _, again = await here.asked()
        assert again == first
        await until(lambda: client.exists(keys.server_request(first["id"])), description="the record")
        assert await here.give(call, first["id"], {"result": {}})
        await question
        conversation.close()


@on_loop
async def test_whoever_takes_the_call_over_is_asked(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """What was not answered, on the new channel; what was answered in the same moment is not asked again."""
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        held = here.hold(call)
        conversation = Conversation(here.asking, held, call, CallClock(limit), seconds=10)
        questions = [
            asyncio.create_task(conversation.ask(method, {}))
            for method in ("sampling/createMessage", "elicitation/create")
        ]
        names = {(await here.asked())[1]["method"]: None for _ in questions}
        assert len(names) == 2
        assert await here.give(call, call.id, None, reply=ELSEWHERE)
        found = [await here.asked() for _ in questions]
        assert {channel for channel, _ in found} == {ELSEWHERE}
        assert held.head.reply == ELSEWHERE
        first, second = (request["id"] for _, request in found)
        await here.give(call, first, {"result": {}})
        await here.give(call, call.id, None, reply=CHANNEL)
        channel, request = await here.asked()
        assert (channel, request["id"]) == (CHANNEL, second)
        await here.give(call, second, {"result": {}})
        await asyncio.gather(*questions)
        conversation.close()
        await until(
            lambda: not client.exists(keys.server_request(call.id)), description="nobody can take it over"
        )
        assert not await here.give(call, call.id, None, reply=CHANNEL)


@on_loop
async def test_a_call_that_ends_takes_its_question_back(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """The client is told, and no answer counts any more."""
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        question = asyncio.create_task(conversation.ask("sampling/createMessage", {}))
        _, request = await here.asked()
        conversation.close()
        with pytest.raises(asyncio.CancelledError):
            await question
        _, frame = await here.frame()
        assert frame["notification"]["method"] == "notifications/cancelled"
        assert frame["notification"]["params"]["requestId"] == request["id"]
        await until(lambda: not client.exists(keys.server_request(request["id"])), description="no record")
        assert not await here.give(call, request["id"], {"result": {}})


@on_loop
async def test_a_client_that_does_not_answer_has_its_time_and_no_more(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """The call goes on with what it had left."""
    async with place(address, keys, client) as here, asyncio.timeout(5) as limit:
        clock, call = CallClock(limit), call_of()
        conversation = Conversation(here.asking, here.hold(call), call, clock, seconds=0.2)
        before = clock.remaining
        with pytest.raises(RpcError, match="input_timeout"):
            await conversation.ask("sampling/createMessage", {})
        assert before - 0.1 < clock.remaining <= before
        assert not clock.with_client
        conversation.close()


@on_loop
async def test_a_call_stands_still_for_so_long_altogether() -> None:
    """However many questions overlap."""
    tasks: list[asyncio.Task[None]] = []
    clocks: list[CallClock] = []

    async def one(clock: CallClock) -> None:
        with clock.paused(0.3):
            await asyncio.sleep(0.15)

    async def ask_for_ever() -> None:
        async with asyncio.timeout(0.2) as limit:
            clocks.append(CallClock(limit))
            while True:
                tasks.append(asyncio.create_task(one(clocks[0])))
                await asyncio.sleep(0.1)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask_for_ever(), 5)
    await asyncio.gather(*tasks)
    assert clocks[0].with_client


@on_loop
async def test_nothing_moves_the_time_of_a_call_that_has_ended() -> None:
    """A question that is cancelled behind the end of the call raises nothing else."""
    async with asyncio.timeout(1) as limit:
        clock = CallClock(limit)

        async def one() -> None:
            with clock.paused(1):
                await asyncio.sleep(10)

        task = asyncio.create_task(one())
        await asyncio.sleep(0)
        clock.close()
        task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    with clock.paused(1):
        pass


@pytest.mark.parametrize("method", ["roots/list", "tools/call", "no/such"])
def test_nobody_is_asked_what_it_did_not_declare(
    address: StoreAddress, client: Client, keys: Keys, method: str
) -> None:
    """And nothing is published."""

    @on_loop
    async def scenario() -> None:
        async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
            call = call_of()
            conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
            with pytest.raises(RpcError) as caught:
                await conversation.ask(method, {})
            assert "requiredCapabilities" in caught.value.error["data"]

    scenario()


@on_loop
async def test_questions_are_bounded(address: StoreAddress, client: Client, keys: Keys) -> None:
    """In number and in size."""
    async with place(address, keys, client) as here, asyncio.timeout(20) as limit:
        call = call_of()
        conversation = Conversation(here.asking, here.hold(call), call, CallClock(limit), seconds=10)
        with pytest.raises(RpcError, match="bytes"):
            await conversation.ask("sampling/createMessage", {"p": "x" * (asking_module.LARGEST + 1)})
        with pytest.raises(RpcError, match="more than"):
            await conversation.answers({str(n): {"method": "roots/list"} for n in range(21)})
        tasks = [asyncio.create_task(conversation.ask("sampling/createMessage", {})) for _ in range(20)]
        await asyncio.sleep(0)
        with pytest.raises(RpcError, match="more than"):
            await conversation.ask("sampling/createMessage", {})
        conversation.close()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)


def test_who_may_answer_is_told_apart() -> None:
    """A session's id is no principal."""
    assert answerer(None, "x") != answerer("x", "y")  # type: ignore[arg-type]
    assert InvocationId("x")


@on_loop
async def test_calls_of_one_principal_that_wait_for_their_clients_are_bounded(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of others as many may wait, one call may ask more than once, and an answer makes room."""
    monkeypatch.setattr(asking_module, "MOST_CALLS", 1)
    async with place(address, keys, client) as here:
        first, second = call_of(), replace(call_of(), id=InvocationId("second"))
        other = replace(
            call_of(),
            id=InvocationId("other"),
            caller=replace(first.caller, client=ClientId("somebody else")),
        )
        held = {call.id: here.hold(call) for call in (first, second, other)}

        def ask(call: Invocation) -> asyncio.Task[Any]:
            work = here.asking.ask(held[call.id], call, "sampling/createMessage", {}, seconds=10)
            return asyncio.create_task(work)

        waiting = [ask(first), ask(first), ask(other)]
        names = [(await here.asked())[1]["id"] for _ in waiting]
        with pytest.raises(RpcError, match="1 calls of this client wait"):
            await ask(second)
        for name in names[:2]:
            assert await here.give(first, name, {"result": {}})
        await asyncio.gather(*waiting[:2])
        waiting.append(ask(second))
        await here.asked()
        for task in waiting[2:]:
            task.cancel()
        await asyncio.wait(waiting)
        for call in held.values():
            here.asking.forget(call)


@on_loop
async def test_what_waits_for_one_principal_is_bounded_in_bytes(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all its calls together."""
    monkeypatch.setattr(asking_module, "MOST_BYTES", 1000)
    async with place(address, keys, client) as here:
        call = call_of()
        held = here.hold(call)
        large = {"text": "x" * 600}
        first = asyncio.create_task(here.asking.ask(held, call, "sampling/createMessage", large, seconds=10))
        await here.asked()
        with pytest.raises(RpcError, match="more than 1000 bytes"):
            await here.asking.ask(held, call, "sampling/createMessage", large, seconds=10)
        first.cancel()
        await asyncio.wait([first])
        here.asking.forget(held)
