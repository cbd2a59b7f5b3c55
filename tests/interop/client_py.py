"""The Python SDK as a client: plays the scripts that ``scenario.mjs`` describes.

``python -m tests.interop.client_py MODE`` reads one from standard input, as the TypeScript clients do. ``MODE`` is
``auto``, ``legacy`` or ``2026-07-28``.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast, get_args

import anyio
import mcp_types as types
import orjson
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.sse import sse_client
from pydantic import BaseModel

Mode = Literal["auto", "legacy", "2026-07-28"]
Json = dict[str, Any]
TIMEOUT = 60.0
ROOTS = "roots/list"


def as_json(model: BaseModel) -> Json:
    """The model as it stands on the wire."""
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


class Player:
    """One client that plays a script, and what it is asked meanwhile."""

    def __init__(self, target: str | StdioServerParameters, mode: Mode, answers: Json) -> None:
        self._answers = answers
        self._asked: list[Json] = []
        transport = sse_client(target) if isinstance(target, str) and target.endswith("/sse") else target
        self._client = Client(
            transport,
            mode=mode,
            cache=None,
            read_timeout_seconds=TIMEOUT,
            elicitation_callback=self._elicit,
            sampling_callback=self._sample,
            list_roots_callback=self._list_roots if ROOTS in answers else None,
        )
        self._lists: dict[str, tuple[Callable[..., Awaitable[Any]], str]] = {
            "tools": (self._client.list_tools, "tools"),
            "resources": (self._client.list_resources, "resources"),
            "templates": (self._client.list_resource_templates, "resourceTemplates"),
            "prompts": (self._client.list_prompts, "prompts"),
        }

    async def play(self, steps: list[Json]) -> Json:
        """Connect, do each step, tell what came of it."""
        async with self._client as client:
            outcomes = [await self._step(step) for step in steps]
            return {"version": client.protocol_version, "steps": outcomes}

    async def _step(self, step: Json) -> Json:
        self._asked = []
        progress: list[Json] = []
        try:
            outcome: Json = {"result": await self._perform(step, progress)}
        except MCPError as error:
            outcome = {"error": {"code": error.code, "message": error.message}}
        return {**outcome, "asked": self._asked, "progress": progress}

    async def _perform(self, step: Json, progress: list[Json]) -> Json:
        match step["do"]:
            case "read":
                return as_json(await self._client.read_resource(step["uri"]))
            case "prompt":
                return as_json(await self._client.get_prompt(step["name"], step.get("arguments")))
            case "call" | "cancel":
                return await self._call(step, progress)
            case listed:
                return await self._list(*self._lists[listed])

    async def _call(self, step: Json, told: list[Json]) -> Json:
        """Call; a call that is cancelled is cancelled at its first progress."""
        with anyio.CancelScope() as scope:

            async def heard(progress: float, total: float | None, message: str | None) -> None:
                found = {"progress": progress, "total": total, "message": message}
                told.append({name: value for name, value in found.items() if value is not None})
                if step["do"] == "cancel":
                    scope.cancel()

            called = await self._client.call_tool(
                step["name"], step.get("arguments"), progress_callback=heard
            )
            return as_json(called)
        raise MCPError(code=0, message="taken back")

    async def _list(self, method: Callable[..., Awaitable[Any]], field: str) -> Json:
        items: list[Json] = []
        cursor: str | None = None
        while True:
            page = await method(cursor=cursor)
            items += as_json(page)[field]
            cursor = page.next_cursor
            if cursor is None:
                return {field: items}

    def _answer(self, method: str, params: BaseModel | None) -> Any:
        self._asked.append({"method": method, "params": as_json(params) if params is not None else {}})
        return self._answers[method]

    async def _elicit(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult.model_validate(self._answer("elicitation/create", params))

    async def _sample(
        self, context: Any, params: types.CreateMessageRequestParams
    ) -> types.CreateMessageResult:
        return types.CreateMessageResult.model_validate(self._answer("sampling/createMessage", params))

    async def _list_roots(self, context: Any) -> types.ListRootsResult:
        return types.ListRootsResult.model_validate(self._answer(ROOTS, None))


async def play(target: str | StdioServerParameters, script: Json, mode: Mode) -> Json:
    """Play a script against a URL (one that ends with ``/sse`` over HTTP+SSE) or a child process."""
    return await Player(target, mode, script.get("answers", {})).play(script["steps"])


def main() -> None:
    """Parse the command line, play, print."""
    mode = sys.argv[1]
    if mode not in get_args(Mode):
        sys.exit(f"MODE is one of {', '.join(get_args(Mode))}, not {mode!r}")
    script = orjson.loads(sys.stdin.buffer.read())
    print(orjson.dumps(anyio.run(play, script["url"], script, cast("Mode", mode))).decode())


if __name__ == "__main__":
    main()
