"""``canalgate call TOOL NAME key=value ...``."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
import typer

from common.domain.errors import ConfigurationError
from gateway_web.cli.client import GatewayClient
from gateway_web.cli.output import Exit, out, say_json
from gateway_web.cli.where import tool_endpoint

UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="CANALGATE_URL", help="The gateway's address.")
]
TokenOption = Annotated[
    str | None, typer.Option("--token", envvar="CANALGATE_TOKEN", help="Sent as a bearer token.")
]
HeaderOption = Annotated[
    list[str] | None, typer.Option("--header", "-H", help="Further header, 'Name: value'.")
]


def call(
    tool: Annotated[str, typer.Argument(help="The tool (a backend server).")],
    name: Annotated[str, typer.Argument(help="The name of one of its MCP tools.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Arguments; KEY:=JSON for any JSON.")
    ] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    header: HeaderOption = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,  # noqa: FBT002
) -> None:
    """Call one MCP tool of a backend through the gateway."""
    client = GatewayClient(tool_endpoint(url, tool), request_headers(token, header), timeout=timeout)
    params = {"name": name, "arguments": _arguments(client, name, arguments or [])}
    result = client.request("tools/call", params, name=name)
    if as_json:
        say_json(result)
    else:
        for block in result.get("content", []):
            out.print(_shown(block), markup=False)
    if result.get("isError") is True:
        raise typer.Exit(Exit.FAILED)


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


def _json(key: str, value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"the value of {key} must be JSON here: {error}") from None


def _shown(block: dict[str, Any]) -> str:
    if block.get("type") == "text":
        return str(block.get("text", ""))
    return f"[{block.get('type')}] {orjson.dumps(block).decode()[:200]}"
