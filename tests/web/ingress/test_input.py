"""What a backend asks during a call, as the web process hands it to the client, and the client's answer back."""

from __future__ import annotations

from typing import Any, NoReturn

import orjson
import pytest

from common.calls.client_answers import answerer
from common.domain.errors import StoreUnavailable
from common.domain.invocation import answer
from tests.support.fake_worker import TakenCall
from tests.support.wait import wait_until
from tests.web.harness import META, Web, body, error, events

CALL = {"name": "echo__add", "arguments": {"a": 1}}
FORM = {"message": "What?", "requestedSchema": {"type": "object"}}


def who(call: TakenCall) -> str:
    """Who may answer what is asked during a call."""
    return answerer(call.invocation.mcp_session, call.invocation.caller.principal)


def asking(call: TakenCall) -> None:
    """Ask once, and wait."""
    call.ask("q1", "elicitation/create", who=who(call), **FORM)


def waited_answer(call: TakenCall, name: str) -> dict[str, Any]:
    """The answer, once it is there."""
    found: list[Any] = []
    wait_until(
        lambda: found or ((got := call.answer(name)) and found.append(got)) or found, description="an answer"
    )
    return found[0]  # type: ignore[no-any-return]


def asked_and_answered(call: TakenCall) -> None:
    """Ask, and give the client's answer as the result."""
    asking(call)
    call.finish(answer(waited_answer(call, "q1")["response"]["result"]))


def test_a_legacy_client_is_asked_on_the_stream_of_its_call(web: Web, session: str) -> None:
    """Once, however often the worker says it; its answer is a POST of its own, to whichever web process."""

    def behaviour(call: TakenCall) -> None:
        asking(call)
        asked_and_answered(call)

    web.worker.behaviour = behaviour
    response = web.legacy(session, "tools/call", CALL, buffered=False)
    stream = response.iter_encoded()
    next(stream)  # a place to come back to
    (first,) = events(next(stream))
    assert first == {"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": FORM}
    headers = {"Mcp-Session-Id": session}
    for name, stranger in (("q1", web.initialize()), ("other", session)):
        given = {"jsonrpc": "2.0", "id": name, "result": {"no": 1}}
        assert web.post(given, headers={"Mcp-Session-Id": stranger}).status_code == 202
    assert (
        web.post({"jsonrpc": "2.0", "id": "q1", "result": {"content": []}}, headers=headers).status_code
        == 202
    )
    rest = [message for message in events(b"".join(stream)) if message != ": ping"]
    assert [message["result"] for message in rest] == [{"content": []}]


def test_an_error_of_a_client_is_handed_on(web: Web, session: str) -> None:
    """As it is."""
    web.worker.behaviour = asking
    response = web.legacy(session, "tools/call", CALL, buffered=False)
    next(response.iter_encoded())
    call = web.worker.next_call()
    given = {"jsonrpc": "2.0", "id": "q1", "error": {"code": -1, "message": "declined", "data": [1]}}
    assert web.post(given, headers={"Mcp-Session-Id": session}).status_code == 202
    assert waited_answer(call, "q1")["response"] == {"error": given["error"]}
    call.finish(answer({}))
    response.close()


def required(web: Web, **options: Any) -> dict[str, Any]:
    """A modern call that wants input."""
    found: dict[str, Any] = body(web.modern("tools/call", CALL, **options))["result"]
    return found


def retry(web: Web, asked: dict[str, Any], responses: Any, **options: Any) -> Any:
    """The same call with the input."""
    params = {**CALL, "requestState": asked["requestState"], "inputResponses": responses}
    return web.modern("tools/call", params, **options)


def test_a_modern_client_comes_again_with_its_input(web: Web) -> None:
    """Nobody waits meanwhile; the call is told where its client waits now."""
    web.worker.behaviour = asking
    asked = required(web)
    web.nothing_waits()
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"] == {"q1": {"method": "elicitation/create", "params": FORM}}
    call = web.worker.next_call()
    assert web.worker.cancelled == []
    moved: list[Any] = []

    def finish() -> None:
        assert waited_answer(call, "q1")["response"] == {"result": {"action": "accept"}}
        moved.append(waited_answer(call, call.invocation.id))
        call.reply_to = moved[0]["reply"]
        call.finish(answer({"content": ["done"]}))

    with web.aside(finish):
        response = retry(web, asked, {"q1": {"action": "accept"}})
    assert body(response)["result"]["content"] == ["done"]
    assert moved[0]["response"] is None
    assert body(retry(web, asked, {"q1": {"action": "decline"}}))["result"]["content"] == ["done"]


def test_progress_after_the_input_has_the_token_of_the_retry(web: Web) -> None:
    """The client knows the first one no more."""
    web.worker.behaviour = asking
    asked = required(web, meta={"progressToken": "first"})
    call = web.worker.next_call()

    def finish() -> None:
        call.reply_to = waited_answer(call, call.invocation.id)["reply"]
        call.notify("notifications/progress", progressToken="first", progress=1)
        call.finish(answer({"content": []}))

    with web.aside(finish):
        response = retry(web, asked, {"q1": {"action": "accept"}}, meta={"progressToken": "second"})
    progress, result = events(response.data)
    assert progress["params"] == {"progressToken": "second", "progress": 1}
    assert result["result"] == {"content": []}


@pytest.mark.parametrize("responses", [{}, None, [], {"q1": 5}, {"other": {}}])
def test_what_is_not_answered_is_asked_again(web: Web, responses: object) -> None:
    """Whatever came instead."""
    web.worker.behaviour = asking
    asked = required(web)
    call = web.worker.next_call()

    def again() -> None:
        call.reply_to = waited_answer(call, call.invocation.id)["reply"]
        asking(call)

    with web.aside(again):
        found = body(retry(web, asked, responses))["result"]
    assert found["inputRequests"].keys() == {"q1"}
    assert call.answer("q1") is None
    call.finish(answer({}))


def test_a_state_of_no_call_that_runs_is_refused(web: Web) -> None:
    """Ended without anybody's result, never begun, or another's."""
    web.worker.behaviour = asking
    asked = required(web)
    web.worker.next_call().over()
    assert error(retry(web, asked, {"q1": {}})) == (400, -32602)
    other = {**CALL, "name": "echo__sub__tract"}
    params = {**other, "requestState": asked["requestState"], "inputResponses": {"q1": {}}}
    assert error(web.modern("tools/call", params)) == (400, -32602)
    assert error(retry(web, {"requestState": "cg1.AAAA"}, {})) == (400, -32602)
    web.nothing_waits()


def test_a_backends_own_state_passes_through(web: Web) -> None:
    """It is no business of ours."""
    web.worker.reset()
    result = body(retry(web, {"requestState": "backend's"}, {"k": {"x": 1}}))["result"]
    params = result["structuredContent"]["params"]
    assert (params["requestState"], params["inputResponses"]) == ("backend's", {"k": {"x": 1}})


def test_on_a_stream_that_has_begun_the_input_is_asked_for_at_its_end(web: Web) -> None:
    """After a notification; what is taken back concerns no modern client."""

    def behaviour(call: TakenCall) -> None:
        call.notify("notifications/progress", progressToken=1, progress=1)
        call.notify("notifications/cancelled", requestId="q0")
        asking(call)

    web.worker.behaviour = behaviour
    found = events(web.modern("tools/call", CALL).data)
    assert [message.get("method") for message in found] == ["notifications/progress", None]
    assert found[-1]["result"]["resultType"] == "input_required"
    web.worker.next_call().finish(answer({}))
    web.nothing_waits()
    assert orjson.dumps(found[-1]["result"]["_meta"])


def test_on_a_stream_that_has_begun_a_question_that_cannot_be_kept_is_an_error_at_its_end(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A modern client cannot come back for what it missed."""

    def behaviour(call: TakenCall) -> None:
        call.notify("notifications/message", level="error", data="so far")
        asking(call)

    def away(*_: object, **__: object) -> NoReturn:
        raise StoreUnavailable("away for a moment")

    web.worker.behaviour = behaviour
    monkeypatch.setattr(web.gateway.request_states, "seal", away)
    found = events(web.modern("tools/call", CALL, meta={META + "logLevel": "info"}).data)
    assert found[0]["params"]["data"] == "so far"
    assert found[-1]["error"]["data"]["code"] == "STORE_UNAVAILABLE"
