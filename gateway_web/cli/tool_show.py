"""``canalgate tools show``: one tool with all that is known of it, and what its MCP tools want to be given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from common.mcp.hidden_text import visible
from gateway_web.cli.completion import ToolArgument
from gateway_web.cli.connection import control
from gateway_web.cli.control import at
from gateway_web.cli.output import say, say_json
from gateway_web.cli.tool_rows import COLUMNS, cells

MOST_VALUES = 8
"""So many values of an enumeration, or alternatives, are shown; of more only their type."""
MOST_DEPTH = 3
"""So deep are alternatives and lists of a schema looked into; it may refer to itself."""


def show(
    tool: ToolArgument,
    config: Annotated[Path | None, typer.Option("--config", help="Settings file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,  # noqa: FBT002
) -> None:
    """Show a tool and the arguments of its MCP tools; one with ? may be left out."""
    plane = control(config)
    found = plane.ask("GET", at("tools", tool)).body
    offers = plane.ask("GET", at("tools", tool, "schemas")).body["tools"]
    if as_json:
        say_json({**found, "tools": [_told(offer) for offer in offers]})
        return
    for name, value in zip(COLUMNS, cells(found, whole=True), strict=True):
        if value:
            say(f"{name:<10} {value}")
    for offer in offers:
        say(f"  {signature(offer)}")
        if line := _first_line(offer.get("description")):
            say(f"      {line}")
    for item in found["quarantined"]:
        say(f"  quarantined: {item['list']} {visible(item['name'])!r}: {item['reason']}")
    for kind, name in found["unapproved"]:
        say(f"  quarantined: {kind} {visible(name)!r}: see `canalgate tools quarantine`")
    for flag in found["flags"]:
        say(f"  flagged: {flag['list']} {flag['name']!r}: {flag['reason']}")


def signature(offer: Mapping[str, Any]) -> str:
    """An MCP tool in one line: ``add(a: integer, b?: integer)``."""
    shown = (
        f"{argument['name']}{'' if argument['required'] else '?'}: {argument['type']}"
        for argument in arguments(offer)
    )
    return f"{offer.get('name')}({', '.join(shown)})"


def arguments(offer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an MCP tool may be given, in its schema's order, what it must be given first.

    A backend's schema may be anything: what cannot be read from it is left out, or ``any``.
    """
    schema = offer.get("inputSchema")
    schema = schema if isinstance(schema, Mapping) else {}
    properties, needed = schema.get("properties"), schema.get("required")
    required = [str(name) for name in needed] if isinstance(needed, list) else []
    found = properties if isinstance(properties, Mapping) else {}
    names = dict.fromkeys([*(name for name in found if name in required), *required, *found])
    return [
        {"name": name, "type": _type(found.get(name), schema), "required": name in required} for name in names
    ]


def _told(offer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": offer.get("name"),
        "description": offer.get("description"),
        "arguments": arguments(offer),
    }


def _type(schema: object, root: Mapping[str, Any], depth: int = 0) -> str:
    """The kind of value that a part of a JSON schema allows, in a word."""
    if not isinstance(schema, Mapping) or depth > MOST_DEPTH:
        return "any"
    if (target := _referred(schema.get("$ref"), root)) is not None:
        return _type(target, root, depth + 1)
    if "const" in schema:
        return _value(schema["const"])
    values = schema.get("enum")
    if isinstance(values, list) and 0 < len(values) <= MOST_VALUES:
        return " | ".join(map(_value, values))
    for word in ("anyOf", "oneOf"):
        if isinstance(several := schema.get(word), list) and len(several) <= MOST_VALUES:
            return " | ".join(dict.fromkeys(_type(one, root, depth + 1) for one in several)) or "any"
    return " | ".join(_kinds(schema, root, depth)) or "any"


def _kinds(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Iterator[str]:
    kinds = schema.get("type")
    words = [kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)]
    for kind in dict.fromkeys(words):
        if kind == "array":
            item = _type(schema.get("items"), root, depth + 1)
            yield f"({item})[]" if "|" in item else f"{item}[]"
        else:
            yield kind


def _referred(reference: object, root: Mapping[str, Any]) -> object:
    """The part of the schema that a reference within it names; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: object = root
    for part in reference.removeprefix("#/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _value(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else "null" if value is None else str(value).lower()


def _first_line(text: object) -> str:
    return (
        next((line.strip() for line in text.splitlines() if line.strip()), "")
        if isinstance(text, str)
        else ""
    )
