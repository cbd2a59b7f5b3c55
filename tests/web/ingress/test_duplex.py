"""A client on one connection that carries both directions: the same by HTTP+SSE and by WebSocket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import orjson
import pytest

from common.domain.errors import StoreUnavailable
from common.domain.ids import ClientId, TenantId, ToolId
from common.domain.invocation import Caller, answer
from common.domain.session import McpSession
from common.ports import RequestFacts
from common.settings import IdentitySettings
from gateway_web.ingress.changes import ListDigests
from gateway_web.ingress.duplex import Duplex, Standing
from gateway_web.ingress.sessions import open_session
from gateway_web.ingress.standing import SessionStream
from tests.support.fake_worker import TakenCall
from tests.support.redis import RedisServer
from tests.support.wait import wait_until
from tests.web.harness import INITIALIZE, META, MODERN, SHARED, Serve, Web, request, serving
from tests.web.ingress.test_input import FORM, asking, waited_answer
from tests.web.peers import DOORS, Talk, listening

CALL = {"name": "echo__add", "arguments": {"a": 1}}
Connect = Callable[..., Talk]


@pytest.fixture(scope="module")
def shared_web(redis_server: RedisServer) -> Iterator[Web]:
    """On its own port."""
    with serving(redis_server, SHARED, way="flask", web={"ping_interval": 0.2}) as web:
        yield web


@pytest.fixture(scope="module")
def place(shared_web: Web) -> Iterator[str]:
    """Where it listens."""
    with listening(shared_web) as found:
        yield found


@pytest.fixture(params=DOORS)
def connect(request: pytest.FixtureRequest, place: str, web: Web) -> Iterator[Connect]:
    """Connects a client by one of the doors; all are hung up at the end, and nothing of them stays."""
    with ExitStack() as stack:

        def begin(**options: Any) -> Talk:
            peer = DOORS[request.param](place, **options)
            stack.callback(peer.close)
            return Talk(peer)

        yield begin
    wait_until(lambda: len(web.gateway.listeners) == 0, description="every connection has been let go of")


def test_a_legacy_client_opens_a_session_and_calls(connect: Connect) -> None:
    """The revision that it asked for, lists, calls, pings."""
    talk = connect()
    assert talk.initialize()["serverInfo"]["name"] == "canalgate"
    assert talk.answer("ping", None, 2) == {"jsonrpc": "2.0", "id": 2, "result": {}}
    listed = talk.answer("tools/list", None, "three")
    assert listed["id"] == "three"
    assert "echo__add" in [tool["name"] for tool in listed["result"]["tools"]]
    called = talk.answer("tools/call", CALL, 4)
    assert called["result"]["structuredContent"]["params"]["arguments"] == {"a": 1}


def test_an_endpoint_of_one_tool_has_its_own_names(connect: Connect) -> None:
    """As ``/servers/<tool>/mcp``."""
    talk = connect(tool="echo")
    assert talk.initialize()["serverInfo"]["name"] == "Echo"
    assert [tool["name"] for tool in talk.answer("tools/list")["result"]["tools"]] == ["add", "sub__tract"]


def test_answers_come_as_they_are_ready(connect: Connect, web: Web) -> None:
    """One call does not hold up the next; what a call says before its end comes before it."""
    waiting: list[TakenCall] = []
    web.worker.behaviour = waiting.append
    talk = connect()
    talk.initialize()
    talk.ask("tools/call", CALL, 1)
    talk.ask("tools/call", CALL, 2)
    wait_until(lambda: len(waiting) == 2, description="both calls run")
    first, second = sorted(waiting, key=lambda call: str(call.invocation.request_id))
    second.notify("notifications/progress", progressToken="p", progress=1)
    second.finish(answer({"content": ["second"]}))
    assert talk.next()["params"] == {"progressToken": "p", "progress": 1}
    assert talk.next() == {"jsonrpc": "2.0", "id": 2, "result": {"content": ["second"]}}
    first.finish(answer({"content": ["first"]}))
    assert talk.next()["id"] == 1


def test_a_client_is_asked_and_answers(connect: Connect, web: Web) -> None:
    """On the same connection."""
    web.worker.behaviour = asking
    talk = connect()
    talk.initialize()
    talk.ask("tools/call", CALL, 1)
    assert talk.next() == {"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": FORM}
    call = web.worker.next_call()
    talk.send({"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}})
    assert waited_answer(call, "q1")["response"] == {"result": {"action": "accept"}}
    call.finish(answer({"content": []}))
    assert talk.next()["result"] == {"content": []}


@pytest.mark.parametrize("modern", [False, True])
def test_a_cancelled_request_is_not_answered(connect: Connect, web: Web, modern: bool) -> None:
    """And its worker is told."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    talk = connect()
    if modern:
        talk.ask_modern("tools/call", CALL, 7)
    else:
        talk.initialize()
        talk.ask("tools/call", CALL, 7)
    wait_until(lambda: taken, description="the call runs")
    talk.tell("notifications/cancelled", {"requestId": 7, "reason": "no need"})
    wait_until(lambda: taken[0].invocation.id in web.worker.cancelled, description="the worker is told")
    talk.ask_modern("server/discover", None, 8)
    assert talk.next()["id"] == 8


@pytest.mark.parametrize("modern", [False, True])
def test_a_client_that_hangs_up_cancels_its_calls(connect: Connect, web: Web, modern: bool) -> None:
    """In the legacy era too: its session was the connection's."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    talk = connect()
    if modern:
        talk.ask_modern("tools/call", CALL)
    else:
        talk.initialize()
        talk.ask("tools/call", CALL)
    wait_until(lambda: taken, description="the call runs")
    session = taken[0].invocation.mcp_session
    talk.peer.close()
    wait_until(lambda: taken[0].invocation.id in web.worker.cancelled, description="the worker is told")
    if session is not None:
        key = web.gateway.keys.mcp_session(session)
        wait_until(lambda: not web.gateway.client.exists(key), description="the session has ended")


def test_a_modern_client_needs_no_session(connect: Connect) -> None:
    """Each request describes itself; both eras may share a connection."""
    talk = connect()
    talk.ask_modern("server/discover", None, "d")
    assert talk.next()["result"]["supportedVersions"] == [MODERN]
    talk.ask_modern("tools/call", CALL, 2)
    assert talk.next()["result"]["structuredContent"]["method"] == "tools/call"
    talk.initialize()
    assert talk.answer("ping")["result"] == {}


def test_a_modern_request_needs_no_headers(connect: Connect) -> None:
    """Not even for an argument that has to stand in one over HTTP: there are none here."""
    talk = connect()
    talk.ask_modern("tools/call", {"name": "echo__add", "arguments": {"a": 1, "region": "eu"}})
    assert talk.next()["result"]["structuredContent"]["params"]["arguments"] == {"a": 1, "region": "eu"}


def test_a_modern_call_that_needs_input_says_so(connect: Connect, web: Web) -> None:
    """As over HTTP."""
    web.worker.behaviour = asking
    talk = connect()
    talk.ask_modern("tools/call", CALL, 1)
    result = talk.next()["result"]
    assert result["resultType"] == "input_required"
    call = web.worker.next_call()

    def finish() -> None:
        assert waited_answer(call, "q1")["response"] == {"result": {"action": "accept"}}
        call.reply_to = waited_answer(call, call.invocation.id)["reply"]
        call.finish(answer({"content": ["done"]}))

    with web.aside(finish):
        responses = {"q1": {"action": "accept"}}
        params = {**CALL, "requestState": result["requestState"], "inputResponses": responses}
        talk.ask_modern("tools/call", params, 2)
        assert talk.next()["result"]["content"] == ["done"]


def test_a_session_is_told_on_its_connection(connect: Connect, web: Web) -> None:
    """What would go on its standing stream by Streamable HTTP: here that a list changed."""
    taken: list[TakenCall] = []

    def behaviour(call: TakenCall) -> None:
        taken.append(call)
        call.finish(answer({}))

    web.worker.behaviour = behaviour
    talk = connect()
    talk.initialize()
    assert talk.answer("tools/call", CALL)["result"] == {}
    session = taken[0].invocation.mcp_session
    assert session is not None
    wait_until(lambda: web.gateway.session_streams.lists_told(session) is not None, description="it listens")
    told = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    web.gateway.session_streams.append(session, told)
    assert talk.next() == told


@pytest.mark.parametrize("door", DOORS)
def test_a_subscription_stands_until_it_is_cancelled(door: str, serve: Serve) -> None:
    """``subscriptions/listen`` is one of several requests on its connection."""
    web = serve(web={"ping_interval": 0.2})
    with listening(web) as place:
        talk = Talk(DOORS[door](place))
        talk.ask_modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, "sub")
        acknowledged = talk.next()
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["_meta"] == {META + "subscriptionId": "sub"}
        web.gateway.registry.remove(ToolId("slow"))
        changed = talk.next()
        assert changed["method"] == "notifications/tools/list_changed"
        assert changed["params"]["_meta"] == {META + "subscriptionId": "sub"}
        listeners = len(web.gateway.listeners)
        talk.tell("notifications/cancelled", {"requestId": "sub"})
        wait_until(lambda: len(web.gateway.listeners) == listeners - 1, description="nobody listens for it")
        version = web.gateway.catalogue.version
        web.gateway.registry.remove(ToolId("echo"))
        wait_until(lambda: web.gateway.catalogue.version > version, description="the list is another one")
        talk.ask_modern("server/discover", None, 2)
        assert (found := talk.next()).get("id") == 2, found
        talk.peer.close()
        wait_until(lambda: len(web.gateway.listeners) == 0, description="the connection is let go of")


@pytest.mark.parametrize("door", DOORS)
def test_a_subscription_that_breaks_is_answered(
    door: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client hears that nothing more will be told; its connection stands."""
    web = serve(web={"ping_interval": 0.2})
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["note://a"]}
    with listening(web) as place:
        talk = Talk(DOORS[door](place))
        talk.ask_modern("subscriptions/listen", {"notifications": wanted}, "sub")
        assert talk.next()["method"] == "notifications/subscriptions/acknowledged"
        monkeypatch.setattr(web.gateway.session_streams, "read", away)
        broken = talk.next()
        assert (broken["id"], broken["error"]["data"]["code"]) == ("sub", "STORE_UNAVAILABLE")
        monkeypatch.undo()
        talk.ask_modern("server/discover", None, 2)
        assert talk.next()["id"] == 2
        talk.peer.close()


@pytest.mark.parametrize("door", DOORS)
def test_a_call_whose_question_cannot_be_kept_is_answered(
    door: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason: the client could not answer it."""
    web = serve()
    web.worker.behaviour = asking
    monkeypatch.setattr(web.gateway.request_states, "seal", away)
    with listening(web) as place:
        talk = Talk(DOORS[door](place))
        talk.ask_modern("tools/call", CALL, 3)
        broken = talk.next()
        assert (broken["id"], broken["error"]["data"]["code"]) == (3, "STORE_UNAVAILABLE")
        talk.peer.close()


def away(*_: object, **__: object) -> NoReturn:
    """A Redis that is not there."""
    raise StoreUnavailable("away for a moment")


def test_a_session_is_told_what_came_before_its_connection_looked_first(web: Web) -> None:
    """It may be told something as soon as it is there."""
    session = web.gateway.mcp_sessions.create(
        principal="p", version="2025-11-25", tool=None, client_info={}, client_capabilities={}
    )
    told = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    web.gateway.session_streams.append(session.id, told)
    standing = Standing(SessionStream(web.gateway, ListDigests(web.gateway), ME, session))
    found = standing.look()
    standing.close()
    assert found is not None
    assert [orjson.loads(message) for message in found] == [told]


class Scoped:
    """A resolver whose scopes come with the headers."""

    scopes = frozenset({"first"})

    def __init__(self, settings: IdentitySettings) -> None:
        """As the port says."""

    def resolve(self, request: RequestFacts) -> Caller:
        """Always the same principal."""
        return Caller(tenant=TenantId("default"), client=ClientId("c"), scopes=Scoped.scopes)


@pytest.mark.parametrize("door", DOORS)
def test_a_message_has_the_scopes_of_whoever_sent_it(
    door: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that the connection was opened with."""
    web = serve(identity={"resolver": f"{__name__}:Scoped"}, tenants={"allow_unlisted": True})
    seen: list[frozenset[str]] = []

    def behaviour(call: TakenCall) -> None:
        seen.append(call.invocation.caller.scopes)
        call.finish(answer({}))

    web.worker.behaviour = behaviour
    sent = [frozenset({"first"}), frozenset({"second", "third"}), frozenset[str]()]
    with listening(web) as place:
        talk = Talk(DOORS[door](place))
        for scopes in sent:
            monkeypatch.setattr(Scoped, "scopes", scopes)
            talk.ask_modern("tools/call", CALL)
            assert "result" in (found := talk.next()), found
        talk.peer.close()
    assert seen == sent


def test_requests_before_initialize_are_refused(connect: Connect) -> None:
    """But for a ping. The connection stands."""
    talk = connect()
    assert talk.answer("ping")["result"] == {}
    refused = talk.answer("tools/list")
    assert (refused["id"], refused["error"]["code"]) == (1, -32600)
    assert "initialize" in refused["error"]["message"]
    talk.initialize()
    again = talk.answer("initialize", {"protocolVersion": "2025-11-25"}, 2)
    assert again["error"]["code"] == -32600


def test_an_id_that_is_under_way_is_refused(connect: Connect, web: Web) -> None:
    """Nobody could tell the two answers apart."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    talk = connect()
    talk.initialize()
    talk.ask("tools/call", CALL, 5)
    wait_until(lambda: taken, description="the call runs")
    assert talk.answer("tools/call", CALL, 5)["error"]["code"] == -32600
    taken[0].finish(answer({"content": []}))
    assert talk.next()["result"] == {"content": []}


def test_too_many_requests_are_refused(connect: Connect, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time after which to try again."""
    monkeypatch.setattr("gateway_web.ingress.duplex.MOST_REQUESTS", 1)
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    talk = connect()
    talk.initialize()
    talk.ask("tools/call", CALL, 1)
    wait_until(lambda: taken, description="the call runs")
    refused = talk.answer("tools/call", CALL, 2)
    assert (refused["id"], refused["error"]["data"]["code"]) == (2, "RATE_LIMITED")
    assert refused["error"]["data"]["retry_after"] == 1
    taken[0].finish(answer({}))
    assert talk.next()["id"] == 1


def test_an_ended_session_ends_the_connection(connect: Connect, web: Web) -> None:
    """Its client would wait for ever otherwise."""
    taken: list[TakenCall] = []

    def behaviour(call: TakenCall) -> None:
        taken.append(call)
        call.finish(answer({}))

    web.worker.behaviour = behaviour
    talk = connect()
    talk.initialize()
    talk.answer("tools/call", CALL)
    session = taken[0].invocation.mcp_session
    assert session is not None
    web.gateway.client.delete(web.gateway.keys.mcp_session(session))
    assert talk.peer.ended()


def test_what_breaks_inside_is_an_answer(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stands, and nothing of our inside is told."""

    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    talk = connect()
    talk.initialize()
    monkeypatch.setattr("gateway_web.ingress.duplex.dispatch", broken)
    refused = talk.answer("tools/list", None, 9)
    assert refused == {"jsonrpc": "2.0", "id": 9, "error": {"code": -32603, "message": "Internal error"}}
    monkeypatch.undo()
    assert talk.answer("ping", None, 10)["result"] == {}


ME = Caller(tenant=TenantId("default"), client=ClientId("default"))


@contextmanager
def again_and_again(do: Callable[[], object]) -> Iterator[None]:
    """Do something a hundred times a second, beside what is done within."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.01):
            do()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join()


def test_silence_is_told_whatever_wakes_the_connection(web: Web) -> None:
    """Changes of the registry wake all, and have nothing for it: its client is to hear that it stands."""
    duplex = Duplex(web.gateway, ListDigests(web.gateway), ME, None)
    messages = duplex.messages(0.1)
    with again_and_again(duplex.outbox.nudge), ThreadPoolExecutor(1) as pool:
        assert pool.submit(next, messages).result(10) is None
        assert pool.submit(next, messages).result(10) is None
    duplex.close()


def test_silence_is_told_while_redis_is_away(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again and again meanwhile, more often than silence is told."""
    monkeypatch.setattr("gateway_web.ingress.duplex.AGAIN", 0.02)
    duplex = opened(web)
    monkeypatch.setattr(web.gateway.session_streams, "holds", away)
    messages = (message for message in duplex.messages(0.2) if message is None)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            assert pool.submit(next, messages).result(10) is None
    monkeypatch.undo()
    duplex.close()


def test_a_busy_connection_keeps_its_session(web: Web) -> None:
    """Also one whose client only listens, to a call that says something all the time."""
    before = web.gateway.client.keys("*:mcp-session:*")
    duplex = opened(web)
    (key,) = set(web.gateway.client.keys("*:mcp-session:*")) - set(before)
    web.gateway.client.pexpire(key, 10_000)
    with again_and_again(lambda: duplex.outbox.put(b"{}")):
        for _ in duplex.messages(0.1):
            if web.gateway.client.pttl(key) > 20_000:
                break
    duplex.close()


def opened(web: Web) -> Duplex:
    """A connection with a session."""
    duplex = Duplex(web.gateway, ListDigests(web.gateway), ME, None)
    duplex.hear(orjson.dumps(request("initialize", INITIALIZE, "init")), ME)
    return duplex


def test_an_id_is_not_taken_for_another_of_the_same_value(connect: Connect, web: Web) -> None:
    """``true`` is no id, although it equals 1."""
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    talk = connect()
    talk.ask_modern("tools/call", CALL, 1)
    wait_until(lambda: taken, description="the call runs")
    talk.tell("notifications/cancelled", {"requestId": True})
    talk.ask_modern("server/discover", None, 2)
    assert talk.next()["id"] == 2
    taken[0].finish(answer({"content": []}))
    assert talk.next()["id"] == 1


def test_a_client_that_goes_while_its_session_begins_leaves_none(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end came before there was a session to end."""
    before, listeners = set(web.gateway.client.keys("*:mcp-session:*")), len(web.gateway.listeners)
    duplex = Duplex(web.gateway, ListDigests(web.gateway), ME, None)

    def begin(*words: Any) -> McpSession:
        duplex.close()
        return open_session(*words)

    monkeypatch.setattr("gateway_web.ingress.duplex.open_session", begin)
    duplex.hear(orjson.dumps(request("initialize", INITIALIZE, "init")), ME)
    assert set(web.gateway.client.keys("*:mcp-session:*")) == before
    assert len(web.gateway.listeners) == listeners


def test_what_lies_unread_is_bounded_for_all_calls_of_a_connection(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that does not read, with many calls: what they say is dropped, what is asked waits, results come."""
    monkeypatch.setattr("gateway_web.ingress.under_way.MOST_UNREAD", 2000)
    taken: list[TakenCall] = []
    web.worker.behaviour = taken.append
    duplex = opened(web)
    duplex.outbox._bound = 1
    for number in (1, 2):
        duplex.hear(orjson.dumps(request("tools/call", CALL, number)), ME)
    wait_until(lambda: len(taken) == 2, description="both calls run")
    first, second = sorted(taken, key=lambda call: str(call.invocation.request_id))
    for _ in range(4):
        first.notify("notifications/progress", text="x" * 600)
    waiter = web.gateway.hub._waiters[second.invocation.id]
    wait_until(lambda: duplex._under_way.full, description="the bound to be reached")
    second.notify("notifications/progress", text="y")
    wait_until(lambda: waiter.dropped == 1, description="the other call's to be dropped")
    who = f"session:{second.invocation.mcp_session}"
    second.ask("q", "elicitation/create", who=who, **FORM)
    second.notify("notifications/progress", text="z")
    wait_until(lambda: waiter.dropped == 2, description="the question to have been heard")
    assert not waiter._asked
    first.finish(answer({"n": 1}))
    with web.aside(lambda: duplex.hear(orjson.dumps(request("tools/call", CALL, 3)), ME)):
        found: dict[Any, Any] = {}
        said = 0
        for _ in range(20):
            if found.keys() == {"init", 1, 3}:
                break
            message = orjson.loads(duplex.outbox.get(1) or b"{}")
            said += "method" in message
            if "id" in message:
                found[message["id"]] = message
    assert found[3]["error"]["data"]["code"] == "RATE_LIMITED"
    assert found[1]["result"] == {"n": 1}
    assert 3 <= said <= 4  # what was let in before the bound was reached
    wait_until(lambda: not duplex._under_way.full, description="room again")
    second.ask("q", "elicitation/create", who=who, **FORM)
    assert orjson.loads(duplex.outbox.get(10) or b"{}")["method"] == "elicitation/create"
    second.finish(answer({"n": 2}))
    assert orjson.loads(duplex.outbox.get(10) or b"{}")["result"] == {"n": 2}
    second.over()
    duplex.close()


@pytest.mark.parametrize("identity", ["a b", '1 {"result":1}', ""])
def test_an_id_is_any_text(connect: Connect, web: Web, identity: str) -> None:
    """As by Streamable HTTP; of a call that says something, and of one that is taken back."""

    def behaviour(call: TakenCall) -> None:
        call.notify("notifications/progress", progressToken=identity, progress=1)
        if web.worker.taken[0] is call:
            call.finish(answer({"content": []}))

    web.worker.behaviour = behaviour
    talk = connect()
    talk.initialize()
    for _ in range(2):
        talk.ask("tools/call", CALL, identity)
        assert talk.next()["params"] == {"progressToken": identity, "progress": 1}
        if len(web.worker.taken) == 1:
            assert talk.next() == {"jsonrpc": "2.0", "id": identity, "result": {"content": []}}
    talk.tell("notifications/cancelled", {"requestId": identity})
    wait_until(lambda: web.worker.cancelled, description="the worker is told")
    assert talk.answer("ping", None, 2)["id"] == 2
