"""The fixture's MCP tools, less those that answer ``input_required`` (``fixture_input.py``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import PromptsListChanged, SubscriptionBus, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.conformance import fixture_schemas as schemas
from tests.conformance.fixture_schemas import JsonObject

AnswerT = TypeVar("AnswerT", types.CreateMessageResult, types.ElicitResult)

PAUSE = 0.05
"""Seconds between two notifications of one call, so that they leave as separate events."""

RECONNECT_PAUSE = 0.2
"""Seconds a client has to come back after its stream was closed; the suite's retry time is half of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One ``tools/call`` as the tools of this fixture see it."""

    context: ServerRequestContext[Any, Any]
    arguments: JsonObject
    input_responses: JsonObject
    request_state: str | None
    bus: SubscriptionBus

    @property
    def capabilities(self) -> types.ClientCapabilities:
        """What the client declared; nothing if it declared nothing."""
        return self.context.session.client_capabilities or types.ClientCapabilities()


@dataclass(frozen=True, slots=True, kw_only=True)
class FixtureTool:
    """One MCP tool: how it is listed, and what it does."""

    description: str
    run: Callable[[Call], Awaitable[JsonObject]]
    input_schema: JsonObject

    def listed(self, name: str) -> types.Tool:
        """Return the entry of ``tools/list``."""
        return types.Tool(name=name, description=self.description, input_schema=self.input_schema)


def content(*blocks: JsonObject) -> JsonObject:
    """Return a tool result with these content blocks; the SDK leaves ``resultType`` out for old revisions."""
    return {"resultType": "complete", "content": list(blocks)}


def text(value: str) -> JsonObject:
    """Return a text content block."""
    return {"type": "text", "text": value}


def image() -> JsonObject:
    """Return an image content block."""
    return {"type": "image", "data": schemas.PNG, "mimeType": "image/png"}


def audio() -> JsonObject:
    """Return an audio content block."""
    return {"type": "audio", "data": schemas.WAV, "mimeType": "audio/wav"}


def embedded(uri: str, mime_type: str, value: str) -> JsonObject:
    """Return an embedded text resource."""
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": value}}


async def _simple_text(_: Call) -> JsonObject:
    return content(text("This is a simple text response for testing."))


async def _image(_: Call) -> JsonObject:
    return content(image())


async def _audio(_: Call) -> JsonObject:
    return content(audio())


async def _embedded_resource(_: Call) -> JsonObject:
    return content(
        embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    )


async def _multiple_content(_: Call) -> JsonObject:
    mixed = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return content(text("Multiple content types test:"), image(), mixed)


async def _error(_: Call) -> JsonObject:
    return {**content(text("This tool intentionally returns an error for testing")), "isError": True}


async def _schema_2020_12(call: Call) -> JsonObject:
    return content(text(f"JSON Schema 2020-12 tool called with {sorted(call.arguments)}"))


async def _header(call: Call) -> JsonObject:
    return content(text(f"region={call.arguments.get('region', '<none>')}"))


async def _logging(call: Call) -> JsonObject:
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await log(call, message)
        await anyio.sleep(PAUSE)
    return content(text("Tool with logging executed successfully"))


async def _progress(call: Call) -> JsonObject:
    for done in (0, 50, 100):
        await call.context.session.report_progress(done, 100, f"Completed step {done} of 100")
        await anyio.sleep(PAUSE)
    return content(text("Tool with progress executed successfully"))


async def _sampling(call: Call) -> JsonObject:
    request = types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(
            messages=[
                types.SamplingMessage(
                    role="user", content=types.TextContent(type="text", text=str(call.arguments["prompt"]))
                )
            ],
            max_tokens=100,
        )
    )
    answer = await ask(call, request, types.CreateMessageResult)
    said = answer.content.text if answer.content.type == "text" else f"({answer.content.type})"
    return content(text(f"LLM response: {said}"))


async def _elicitation(call: Call) -> JsonObject:
    return await _elicited(call, str(call.arguments["message"]), schemas.RESPONSE_FORM, "User response")


async def _elicitation_defaults(call: Call) -> JsonObject:
    message = "Please review and update the form fields with defaults"
    return await _elicited(call, message, schemas.DEFAULTS_FORM, "Elicitation completed")


async def _elicitation_enums(call: Call) -> JsonObject:
    return await _elicited(
        call, "Please select options from the enum fields", schemas.ENUM_FORM, "Elicitation completed"
    )


async def _elicited(call: Call, message: str, form: JsonObject, label: str) -> JsonObject:
    parameters = types.ElicitRequestFormParams(message=message, requested_schema=form)
    answer = await ask(call, types.ElicitRequest(params=parameters), types.ElicitResult)
    return content(text(f"{label}: action={answer.action}, content={answer.content or {}}"))


async def _missing_capability(call: Call) -> JsonObject:
    if call.capabilities.sampling is None:
        raise MCPError(
            code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            message="This tool requires the client capability 'sampling'",
            data={"requiredCapabilities": {"sampling": {}}},
        )
    return content(text("The client declared 'sampling'"))


async def _reconnection(call: Call) -> JsonObject:
    """Close the response stream in the middle of the call (SEP-1699) and answer on the resumed one."""
    await log(call, "Before disconnect")
    if call.context.close_sse_stream is not None:
        await call.context.close_sse_stream()
        await anyio.sleep(RECONNECT_PAUSE)
    await log(call, "After reconnect")
    return content(text("Reconnection test completed"))


async def _tool_change(call: Call) -> JsonObject:
    await call.bus.publish(ToolsListChanged())
    if not _is_modern(call):
        await call.context.session.send_tool_list_changed()
    return content(text("tool list changed"))


async def _prompt_change(call: Call) -> JsonObject:
    await call.bus.publish(PromptsListChanged())
    if not _is_modern(call):
        await call.context.session.send_prompt_list_changed()
    return content(text("prompt list changed"))


def _is_modern(call: Call) -> bool:
    return call.context.protocol_version in MODERN_PROTOCOL_VERSIONS


async def log(call: Call, message: str) -> None:
    """Send a log message on the stream of this call; a modern client gets it only if it asked for logs."""
    await call.context.session.send_log_message("info", message, related_request_id=call.context.request_id)


async def ask(
    call: Call, request: types.CreateMessageRequest | types.ElicitRequest, answer: type[AnswerT]
) -> AnswerT:
    """Send a request to the client on the stream of this call and return its typed answer."""
    # Without the related id it would go to the standalone stream, which may not be open, and be lost.
    related = ServerMessageMetadata(related_request_id=call.context.request_id)
    return await call.context.session.send_request(request, answer, metadata=related)


def _tool(
    run: Callable[[Call], Awaitable[JsonObject]], description: str, schema: JsonObject | None = None
) -> FixtureTool:
    return FixtureTool(run=run, description=description, input_schema=schema or schemas.NO_ARGUMENTS)


TOOLS: dict[str, FixtureTool] = {
    "test_simple_text": _tool(_simple_text, "Answers with one text block"),
    "test_image_content": _tool(_image, "Answers with one image block"),
    "test_audio_content": _tool(_audio, "Answers with one audio block"),
    "test_embedded_resource": _tool(_embedded_resource, "Answers with one embedded resource"),
    "test_multiple_content_types": _tool(_multiple_content, "Answers with text, an image and a resource"),
    "test_tool_with_logging": _tool(_logging, "Sends three log messages, then answers"),
    "test_logging_tool": _tool(_logging, "Sends three log messages, then answers"),
    "test_tool_with_progress": _tool(_progress, "Reports progress 0, 50 and 100, then answers"),
    "test_error_handling": _tool(_error, "Answers with isError"),
    "test_sampling": _tool(
        _sampling, "Asks the client to sample", schemas.text_argument("prompt", "The prompt to send")
    ),
    "test_elicitation": _tool(
        _elicitation, "Asks the user one thing", schemas.text_argument("message", "The message to show")
    ),
    "test_elicitation_sep1034_defaults": _tool(_elicitation_defaults, "Asks with a default of every type"),
    "test_elicitation_sep1330_enums": _tool(_elicitation_enums, "Asks with every spelling of an enum"),
    "test_reconnection": _tool(_reconnection, "Closes its stream in the middle of the call"),
    "json_schema_2020_12_tool": _tool(
        _schema_2020_12, "Has an input schema with 2020-12 keywords", schemas.SCHEMA_2020_12
    ),
    "test_x_mcp_header": _tool(_header, "Has an argument that is also a header", schemas.HEADER_ARGUMENT),
    "test_missing_capability": _tool(_missing_capability, "Needs the client capability 'sampling'"),
    "test_trigger_tool_change": _tool(_tool_change, "Announces that the list of tools changed"),
    "test_trigger_prompt_change": _tool(_prompt_change, "Announces that the list of prompts changed"),
}
