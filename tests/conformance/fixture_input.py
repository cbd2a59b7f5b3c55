"""The fixture's tools that answer ``input_required`` (SEP-2322, revision 2026-07-28 only)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from tests.conformance import fixture_schemas as schemas
from tests.conformance.fixture_schemas import JsonObject
from tests.conformance.fixture_tools import Call, FixtureTool, content, text

ROOTS_REQUEST: JsonObject = {"method": "roots/list", "params": {}}


def elicitation(message: str, form: JsonObject) -> JsonObject:
    """Return an input request that shows the user a form."""
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": message, "requestedSchema": form},
    }


def sampling(prompt: str) -> JsonObject:
    """Return an input request that asks the client's model."""
    message = {"role": "user", "content": text(prompt)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


def input_required(requests: JsonObject, state: str | None = None) -> JsonObject:
    """Return an interim result: answer these, and send ``state`` back (the server seals it on the wire)."""
    result: JsonObject = {"resultType": "input_required", "inputRequests": requests}
    return result if state is None else {**result, "requestState": state}


def accepted(responses: JsonObject, key: str, field: str, kind: type) -> Any | None:
    """Return ``field`` of the accepted form ``key``; None if it is missing, refused or of another type."""
    answer = responses.get(key)
    if not isinstance(answer, dict) or answer.get("action") != "accept":
        return None
    value = (answer.get("content") or {}).get(field)
    return value if isinstance(value, kind) else None


async def _elicitation(call: Call) -> JsonObject:
    name = accepted(call.input_responses, "user_name", "name", str)
    if name is None:
        return input_required({"user_name": elicitation("What is your name?", schemas.NAME_FORM)})
    return content(text(f"Hello, {name}!"))


async def _sampling(call: Call) -> JsonObject:
    answer = call.input_responses.get("capital_question", {}).get("content", {})
    if answer.get("type") != "text":
        return input_required({"capital_question": sampling("What is the capital of France?")})
    return content(text(f"The model said: {answer['text']}"))


async def _list_roots(call: Call) -> JsonObject:
    roots = call.input_responses.get("client_roots", {}).get("roots")
    if roots is None:
        return input_required({"client_roots": ROOTS_REQUEST})
    return content(text(f"The client has {len(roots)} root(s)."))


async def _request_state(call: Call) -> JsonObject:
    if call.request_state == "confirm" and accepted(call.input_responses, "confirm", "ok", bool) is not None:
        return content(text("state-ok: confirmation received"))
    return input_required({"confirm": elicitation("Please confirm", schemas.CONFIRM_FORM)}, "confirm")


async def _tampered_state(call: Call) -> JsonObject:
    """Ask once; a state that was changed on its way back never arrives here, the sealing refuses it."""
    if call.request_state is None:
        return input_required({"confirm": elicitation("Please confirm", schemas.CONFIRM_FORM)}, "first-round")
    return content(text(f"state-ok: {call.request_state}"))


async def _multiple_inputs(call: Call) -> JsonObject:
    requests = {
        "user_name": elicitation("What is your name?", schemas.NAME_FORM),
        "greeting": sampling("Generate a greeting"),
        "client_roots": ROOTS_REQUEST,
    }
    if requests.keys() <= call.input_responses.keys():
        return content(text("All inputs received."))
    return input_required(requests, "multiple-inputs")


async def _multi_round(call: Call) -> JsonObject:
    """Ask for a name, then for a color; what was answered so far travels in the state."""
    state = orjson.loads(call.request_state) if call.request_state else {"round": 0}
    name = state.get("name") or accepted(call.input_responses, "step1", "name", str)
    if state["round"] == 0 or name is None:
        return _ask_round(1, "step1", elicitation("Step 1: What is your name?", schemas.NAME_FORM))
    color = accepted(call.input_responses, "step2", "color", str)
    if state["round"] == 1 or color is None:
        step2 = elicitation("Step 2: What is your favorite color?", schemas.COLOR_FORM)
        return _ask_round(2, "step2", step2, name=name)
    return content(text(f"{name} likes {color}."))


def _ask_round(number: int, key: str, request: JsonObject, **state: Any) -> JsonObject:
    return input_required({key: request}, orjson.dumps({"round": number, **state}).decode())


async def _capabilities(call: Call) -> JsonObject:
    """Ask only for what the client declared in this very request."""
    requests: JsonObject = {}
    if call.capabilities.sampling is not None:
        requests["greeting"] = sampling("Say hello")
    if call.capabilities.elicitation is not None:
        requests["user_name"] = elicitation("What is your name?", schemas.NAME_FORM)
    if not requests:
        return content(text("The client declared neither sampling nor elicitation."))
    return input_required(requests, "capabilities")


async def _streaming_elicitation(call: Call) -> JsonObject:
    """Send progress, then ask: on this revision a question is a result, never a request on the stream."""
    await call.context.session.report_progress(1, 2, "about to ask")
    return await _elicitation(call)


def _tool(run: Callable[[Call], Awaitable[JsonObject]], description: str) -> FixtureTool:
    return FixtureTool(run=run, description=description, input_schema=schemas.NO_ARGUMENTS)


TOOLS: dict[str, FixtureTool] = {
    "test_input_required_result_elicitation": _tool(_elicitation, "Asks the user for a name"),
    "test_input_required_result_sampling": _tool(_sampling, "Asks the client's model"),
    "test_input_required_result_list_roots": _tool(_list_roots, "Asks for the client's roots"),
    "test_input_required_result_request_state": _tool(_request_state, "Asks, and checks its state on return"),
    "test_input_required_result_tampered_state": _tool(_tampered_state, "Asks, and refuses a changed state"),
    "test_input_required_result_multiple_inputs": _tool(_multiple_inputs, "Asks three things at once"),
    "test_input_required_result_multi_round": _tool(_multi_round, "Asks twice, one after the other"),
    "test_input_required_result_capabilities": _tool(_capabilities, "Asks for what the client declared"),
    "test_streaming_elicitation": _tool(_streaming_elicitation, "Sends progress, then asks the user"),
}
