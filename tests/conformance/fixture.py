"""The MCP server that the conformance suite is pointed at, directly or through the gateway.

``python -m tests.conformance.fixture --transport http --port 9000`` serves ``http://127.0.0.1:9000/mcp``;
``--transport stdio`` serves standard input and output. Both transports speak every revision the SDK knows, or with
``--era`` those of one era.
"""

from __future__ import annotations

import argparse
import base64
import os
import warnings
from typing import Any, get_args

import anyio
import mcp_types as types
import orjson
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

from tests.conformance import fixture_cancel, fixture_input, fixture_prompts, fixture_tools
from tests.conformance import fixture_schemas as schemas
from tests.conformance.fixture_era import Era, OnlyEra, only_era
from tests.conformance.fixture_tools import Call

NAME = "canalgate-conformance-fixture"
RETRY_MS = 100
TOOLS = {**fixture_tools.TOOLS, **fixture_input.TOOLS, **fixture_cancel.TOOLS}
TEMPLATE = ("test://template/", "/data")

RESOURCES: dict[str, tuple[str, str | bytes]] = {
    "test://static-text": ("text/plain", "This is the content of the static text resource."),
    "test://static-binary": ("image/png", base64.b64decode(schemas.PNG)),
    "test://watched-resource": ("text/plain", "Watched resource content"),
}

Context = ServerRequestContext[Any, Any]


class EventLog(EventStore):
    """Every event of every stream, so that a client can come back with ``Last-Event-ID``."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        """Append one event; its id is its position."""
        self._events.append((stream_id, message))
        return str(len(self._events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Send what the stream of ``last_event_id`` got after it; None if there is no such event."""
        if not last_event_id.isdigit() or int(last_event_id) >= len(self._events):
            return None
        last = int(last_event_id)
        stream = self._events[last][0]
        for position, (stream_id, message) in enumerate(self._events):
            if position > last and stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(position)))
        return stream


class FixtureServer(Server[Any]):
    """The low-level server of the SDK, with ``listChanged`` also announced to legacy clients."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, Any]] | None = None,
        extensions: dict[str, dict[str, Any]] | None = None,
    ) -> InitializationOptions:
        """As the SDK's, with the lists that this server changes marked as changing."""
        options = notification_options or NotificationOptions(tools_changed=True, prompts_changed=True)
        return super().create_initialization_options(options, experimental_capabilities, extensions)


class Fixture:
    """The request handlers of the fixture and what they share: one bus of change events."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()

    async def list_tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """All tools, on one page."""
        return types.ListToolsResult(tools=[tool.listed(name) for name, tool in TOOLS.items()])

    async def call_tool(self, context: Context, parameters: types.CallToolRequestParams) -> Any:
        """Run a tool; an unknown name is refused with ``INVALID_PARAMS``."""
        tool = TOOLS.get(parameters.name)
        if tool is None:
            raise MCPError(code=types.INVALID_PARAMS, message=f"Unknown tool: {parameters.name}")
        call = Call(
            context=context,
            arguments=parameters.arguments or {},
            input_responses=(context.params or {}).get("inputResponses") or {},
            request_state=parameters.request_state,
            bus=self.bus,
        )
        return await tool.run(call)

    async def complete(self, _: Context, parameters: types.CompleteRequestParams) -> types.CompleteResult:
        """Offer the candidates that begin with what was typed."""
        candidates = ["paris", "park", "party"]
        values = [value for value in candidates if value.startswith(parameters.argument.value)]
        return types.CompleteResult(
            completion=types.Completion(values=values, total=len(values), has_more=False)
        )

    async def accept(self, _: Context, __: Any) -> types.EmptyResult:
        """Acknowledge ``logging/setLevel``, ``resources/subscribe`` and ``resources/unsubscribe``."""
        return types.EmptyResult()

    async def list_resources(
        self, _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        """The static resources, on one page."""
        return types.ListResourcesResult(
            resources=[
                types.Resource(uri=uri, name=uri.removeprefix("test://"), mime_type=mime_type)
                for uri, (mime_type, _) in RESOURCES.items()
            ]
        )

    async def list_templates(
        self, _: Context, __: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        """The one template."""
        template = types.ResourceTemplate(
            uri_template="{id}".join(TEMPLATE), name="template", mime_type="application/json"
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read(
        self, context: Context, parameters: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """Read a resource; an unknown one is refused with the URI in ``data`` (SEP-2164)."""
        uri = str(parameters.uri)
        prefix, suffix = TEMPLATE
        if uri.startswith(prefix) and uri.endswith(suffix):
            key = uri.removeprefix(prefix).removesuffix(suffix)
            body = orjson.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"}).decode()
            return _contents(uri, "application/json", body)
        if uri not in RESOURCES:
            raise MCPError(code=_not_found_code(context), message="Resource not found", data={"uri": uri})
        return _contents(uri, *RESOURCES[uri])


def _contents(uri: str, mime_type: str, body: str | bytes) -> types.ReadResourceResult:
    if isinstance(body, str):
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=uri, mime_type=mime_type, text=body)]
        )
    blob = base64.b64encode(body).decode()
    return types.ReadResourceResult(
        contents=[types.BlobResourceContents(uri=uri, mime_type=mime_type, blob=blob)]
    )


def _not_found_code(context: Context) -> int:
    """-32602 since 2026-07-28, before that the code of its own (specification, resources, error handling)."""
    modern = context.protocol_version >= "2026"
    return types.INVALID_PARAMS if modern else -32002


def build_server() -> FixtureServer:
    """Return the server with all handlers; ``requestState`` is sealed under a key of this process."""
    fixture = Fixture()
    server = FixtureServer(
        NAME,
        version="1.0.0",
        instructions="Test server: its answers are what the conformance suite expects.",
        get_tool_input_schema=lambda name: TOOLS[name].input_schema if name in TOOLS else None,
        on_list_tools=fixture.list_tools,
        on_call_tool=fixture.call_tool,
        on_list_resources=fixture.list_resources,
        on_list_resource_templates=fixture.list_templates,
        on_read_resource=fixture.read,
        on_subscribe_resource=fixture.accept,
        on_unsubscribe_resource=fixture.accept,
        on_subscriptions_listen=ListenHandler(fixture.bus),
        on_list_prompts=fixture_prompts.list_prompts,
        on_get_prompt=fixture_prompts.get_prompt,
        on_completion=fixture.complete,
    )
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, fixture.accept)
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


async def serve_stdio(era: Era) -> None:
    """Serve standard input and output until standard input ends."""
    server = build_server()
    async with stdio_server() as (read, write), only_era(era, read, write) as kept:
        await server.run(kept, write, server.create_initialization_options())


def serve_http(host: str, port: int, era: Era) -> None:
    """Serve ``/mcp`` until SIGINT or SIGTERM."""
    app = build_server().streamable_http_app(host=host, event_store=EventLog(), retry_interval=RETRY_MS)
    uvicorn.run(OnlyEra(app, era), host=host, port=port, log_level="warning", timeout_graceful_shutdown=1)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.conformance.fixture")
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "9000")))
    parser.add_argument("--era", choices=get_args(Era), default="both")
    arguments = parser.parse_args()
    # Logging and sampling are deprecated since 2026-07-28, but older revisions are served and tested too.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    if arguments.transport == "stdio":
        anyio.run(serve_stdio, arguments.era)
    else:
        serve_http(arguments.host, arguments.port, arguments.era)


if __name__ == "__main__":
    main()
