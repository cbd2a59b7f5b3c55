"""``canalgate call TOOL NAME key=value ...``."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

import orjson
import typer

from common.domain.errors import ConfigurationError, GatewayError, ToolNotFound, Unauthenticated
from common.mcp.naming import SEPARATOR
from gateway_web.cli.client import GatewayClient, RefusedByGateway
from gateway_web.cli.connection import chosen_timeout, chosen_url, client_token, warn_of_clear, warn_of_typed
from gateway_web.cli.output import Exit, json_text, remark, say_json, say_text
from gateway_web.cli.where import endpoint, tool_endpoint, trust

CREDENTIALS = frozenset({"authorization", "x-api-key", "cookie"})
"""Headers that say who calls, and so nobody else may read."""
MOST_NAMES = 20
"""So many names are told to whoever gave none of them."""

USUAL_TIMEOUT = 60.0
"""Seconds."""
HeaderOption = Annotated[
    list[str] | None, typer.Option("--header", "-H", help="Further header, 'Name: value'.")
]


def call(
    tool: Annotated[str, typer.Argument(help="The tool (a backend server).")],
    name: Annotated[str, typer.Argument(help="The name of one of its MCP tools.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Arguments; KEY:=JSON for any JSON.")
    ] = None,
    header: HeaderOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Call one MCP tool of a backend through the gateway. A token is that of an MCP client."""
    url, timeout = chosen_url(), chosen_timeout(USUAL_TIMEOUT)
    headers = request_headers(client_token(), header)
    _warn(endpoint(url), headers, header)
    client = GatewayClient(tool_endpoint(url, tool), headers, timeout=timeout, tls=trust(url))
    try:
        params = {"name": name, "arguments": _arguments(client, name, arguments or [])}
        result = client.request("tools/call", params, name=name)
    except RefusedByGateway as error:
        if error.data.get("code") == ToolNotFound.code:
            everywhere = GatewayClient(endpoint(url), headers, timeout=timeout, tls=trust(url))
            say_hint("tool", tool, _names(everywhere, of_tools=True))
        elif error.data.get("code") == Unauthenticated.code:
            remark("give a key with --token-file or in CANALGATE_TOKEN; `canalgate keys issue` makes one")
        else:
            say_hint("MCP tool", name.removeprefix(f"{tool}{SEPARATOR}"), _names(client), given=name)
        raise
    if result.get("isError") is True:
        say_hint("MCP tool", name.removeprefix(f"{tool}{SEPARATOR}"), _names(client), given=name)
    if as_json:
        say_json(result)
    else:
        for block in result.get("content", []):
            say_text(_shown(block))
    if result.get("isError") is True:
        raise typer.Exit(Exit.FAILED)


def _warn(url: str, headers: Mapping[str, str], header: list[str] | None) -> None:
    """Say where others can read a credential: in the list of processes, or on its way."""
    if CREDENTIALS & request_headers(None, header).keys():
        warn_of_typed("--header")
    if CREDENTIALS & headers.keys():
        warn_of_clear("token", url)


def request_headers(token: str | None, header: list[str] | None) -> dict[str, str]:
    """The headers a caller is recognised by."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    for line in header or []:
        name, colon, value = line.partition(":")
        if not colon:
            raise ConfigurationError(f"--header wants 'Name: value', not {name!r}")
        headers[name.strip().lower()] = value.strip()
    return headers


def _arguments(client: GatewayClient, name: str, given: list[str]) -> dict[str, Any]:
    """``key:=json`` is JSON; ``key=value`` is what the schema wants it to be, text if that is not known."""
    if not given:
        return {}
    listed = client.request("tools/list", {})["tools"]
    schema: dict[str, Any] = next(
        (tool.get("inputSchema", {}) for tool in listed if tool.get("name") == name), {}
    )
    properties = schema.get("properties") or {}
    arguments: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigurationError(f"an argument is KEY=VALUE or KEY:=JSON, not {pair!r}")
        if key.endswith(":"):
            arguments[key[:-1]] = _json(key[:-1], value)
        else:
            kind = (properties.get(key) or {}).get("type", "string")
            arguments[key] = value if kind == "string" else _json(key, value)
    return arguments


def say_hint(what: str, wanted: str, known: list[str], *, given: str | None = None) -> None:
    """Say on standard error that a name is none of those known, and which may be meant; nothing if it is one."""
    given = wanted if given is None else given
    if not known or given in known:
        return
    near = get_close_matches(wanted, known, n=1)
    shown = sorted(known)[:MOST_NAMES]
    more = "" if len(known) == len(shown) else f", and {len(known) - len(shown)} more"
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(shown)}{more}"
    remark(f"no {what} {given!r} is offered; {hint}")


def _names(client: GatewayClient, *, of_tools: bool = False) -> list[str]:
    """What is listed at an endpoint; ``of_tools``: the tools that the names there begin with.

    Degrades: empty without an answer.
    """
    try:
        listed = client.request("tools/list", {})["tools"]
    except GatewayError:
        return []
    names = [str(offer.get("name")) for offer in listed]
    return list(dict.fromkeys(name.partition(SEPARATOR)[0] for name in names)) if of_tools else names


def _json(key: str, value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"the value of {key} must be JSON here: {error}") from None


def _shown(block: dict[str, Any]) -> str:
    if block.get("type") == "text":
        return str(block.get("text", ""))
    return f"[{block.get('type')}] {json_text(block)[:200]}"
