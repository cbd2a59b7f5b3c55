"""The fixture's prompts."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from tests.conformance import fixture_input
from tests.conformance import fixture_schemas as schemas
from tests.conformance.fixture_schemas import JsonObject
from tests.conformance.fixture_tools import embedded, image, text

# Prompt name -> description and the names of its arguments, all required.
PROMPTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "test_simple_prompt": ("A prompt without arguments", ()),
    "test_prompt_with_arguments": ("A prompt with two arguments", ("arg1", "arg2")),
    "test_prompt_with_embedded_resource": ("A prompt with a resource in it", ("resourceUri",)),
    "test_prompt_with_image": ("A prompt with an image in it", ()),
    "test_input_required_result_prompt": ("A prompt that asks the user first", ()),
}


async def list_prompts(
    _: ServerRequestContext[Any, Any], __: types.PaginatedRequestParams | None
) -> types.ListPromptsResult:
    """All prompts, on one page."""
    return types.ListPromptsResult(
        prompts=[
            types.Prompt(
                name=name,
                description=description,
                arguments=[
                    types.PromptArgument(name=argument, description=f"The argument {argument}", required=True)
                    for argument in arguments
                ],
            )
            for name, (description, arguments) in PROMPTS.items()
        ]
    )


async def get_prompt(
    context: ServerRequestContext[Any, Any], parameters: types.GetPromptRequestParams
) -> Any:
    """Fill a prompt; an unknown name or a missing argument is refused with ``INVALID_PARAMS``."""
    arguments = parameters.arguments or {}
    if parameters.name not in PROMPTS:
        raise MCPError(code=types.INVALID_PARAMS, message=f"Unknown prompt: {parameters.name}")
    missing = [name for name in PROMPTS[parameters.name][1] if name not in arguments]
    if missing:
        raise MCPError(code=types.INVALID_PARAMS, message=f"Missing argument: {', '.join(missing)}")
    if parameters.name == "test_input_required_result_prompt":
        return _ask_for_context((context.params or {}).get("inputResponses") or {})
    return _messages(*_blocks(parameters.name, arguments))


def _blocks(name: str, arguments: dict[str, str]) -> list[JsonObject]:
    if name == "test_prompt_with_arguments":
        return [text(f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'")]
    if name == "test_prompt_with_embedded_resource":
        resource = embedded(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
        return [resource, text("Please process the embedded resource above.")]
    if name == "test_prompt_with_image":
        return [image(), text("Please analyze the image above.")]
    return [text("This is a simple prompt for testing.")]


def _ask_for_context(responses: JsonObject) -> JsonObject:
    context = fixture_input.accepted(responses, "user_context", "context", str)
    if context is None:
        request = fixture_input.elicitation("What context should the prompt use?", schemas.CONTEXT_FORM)
        return fixture_input.input_required({"user_context": request})
    return _messages(text(f"Use the following context: {context}"))


def _messages(*blocks: JsonObject) -> JsonObject:
    return {"resultType": "complete", "messages": [{"role": "user", "content": block} for block in blocks]}
