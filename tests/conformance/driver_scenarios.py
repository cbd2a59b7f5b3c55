"""What is done with the suite's servers, scenario by scenario."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

import mcp_types as types
from mcp import Client

Json = dict[str, Any]
Play = Callable[[Client, Json], Awaitable[None]]
TIMEOUT = 60.0


async def play_scenario(
    url: str, scenario: str, mode: Literal["legacy", "2026-07-28"], context: Json
) -> None:
    """Do it with the Python SDK, in the era of the scenario's revision."""
    client = Client(
        url, mode=mode, cache=None, read_timeout_seconds=TIMEOUT, elicitation_callback=accept_defaults
    )
    async with client:
        await SCENARIOS[scenario](client, context)


async def accept_defaults(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    """Accept a form as it stands: with its defaults, and a plain yes where there is none."""
    content: dict[str, str | int | float | bool | list[str] | None] = {}
    if isinstance(params, types.ElicitRequestFormParams):
        for name, field in params.requested_schema.get("properties", {}).items():
            if "default" in field:
                content[name] = field["default"]
            elif field.get("type") == "boolean":
                content[name] = True
    return types.ElicitResult(action="accept", content=content)


async def only_list(client: Client, _: Json) -> None:
    """List the tools."""
    await client.list_tools()


def calls(*names: str, **arguments: Any) -> Play:
    """List the tools and call these."""

    async def play(client: Client, _: Json) -> None:
        await client.list_tools()
        for name in names:
            await client.call_tool(name, arguments)

    return play


async def every_method(client: Client, _: Json) -> None:
    """Use each thing that is listed."""
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, {})
    for resource in (await client.list_resources()).resources:
        await client.read_resource(resource.uri)
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name, {})


async def told_calls(client: Client, context: Json) -> None:
    """The calls that the suite asks for."""
    await client.list_tools()
    for wanted in context["toolCalls"]:
        await client.call_tool(wanted["name"], wanted["arguments"])


async def all_that_is_listed(client: Client, _: Json) -> None:
    """Call each tool that is shown, with what its schema wants."""
    for tool in (await client.list_tools()).tools:
        properties: Json = tool.input_schema.get("properties", {})
        await client.call_tool(tool.name, dict.fromkeys(properties, "x"))


async def echo_schema(client: Client, _: Json) -> None:
    """Send a schema back as it came."""
    listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    schema = listed["json_schema_2020_12_tool"].input_schema
    await client.call_tool("json_schema_echo", {"schema": schema})


SCENARIOS: dict[str, Play] = {
    "initialize": only_list,
    "tools_call": calls("add_numbers", a=5, b=3),
    "elicitation-sep1034-client-defaults": calls("test_client_elicitation_defaults"),
    "sse-retry": calls("test_reconnection"),
    "request-metadata": only_list,
    "sep-2322-client-request-state": calls(
        "test_mrtr_echo_state", "test_mrtr_unrelated", "test_mrtr_no_state", "test_mrtr_no_result_type"
    ),
    "http-standard-headers": every_method,
    "http-custom-headers": told_calls,
    "http-invalid-tool-headers": all_that_is_listed,
    "json-schema-ref-no-deref": only_list,
    "json-schema-2020-12-preservation": echo_schema,
}
