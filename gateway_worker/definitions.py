"""Which items of a backend's lists clients can be given.

Clients refuse a whole list for one item that its schema forbids, so such an item is left out, and the tool's status
says why. Nothing is mended: what is given is what the backend said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema.exceptions import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for

from common.domain.capabilities import Quarantined
from common.mcp.listings import PROMPTS, RESOURCE_TEMPLATES, RESOURCES, TOOLS, Listing

MOST_NODES, LONGEST_LIST = 5_000, 500
"""Parts of a schema, and items of a list in it, beyond which it is not looked at: some dialects' own schemas ask for
lists whose items all differ, which takes time by the square."""
MOST_EXPRESSIONS, LONGEST_TEMPLATE = 16, 1024
"""Of a resource template: each request for a resource may be held against it."""
MOST_TOLD = 100
"""So many quarantined items of a list are told of, and of the rest only that there are more."""
_SHOWN = 200


def sorted_out(
    listing: Listing, items: Iterable[Any], known: Iterable[Mapping[str, Any]] = ()
) -> tuple[tuple[Mapping[str, Any], ...], tuple[Quarantined, ...]]:
    """The items that can be given to clients, and those that cannot. Those ``known`` to be good are not checked again.

    Checking a schema takes milliseconds: it is work for a thread.
    """
    before = {item[listing.key]: item for item in known}
    good: dict[str, Mapping[str, Any]] = {}
    bad: list[Quarantined] = []
    for item in items:
        name = item.get(listing.key) if isinstance(item, dict) else None
        same = isinstance(name, str) and before.get(name) == item
        why = (None if same else problem(listing, item)) or _taken(listing, item, good)
        if why is None:
            good[item[listing.key]] = item
        else:
            bad.append(Quarantined(list=listing.member, name=_name(listing, item), reason=why[:_SHOWN]))
    more = len(bad) - MOST_TOLD
    if more > 0:
        bad[MOST_TOLD:] = [Quarantined(list=listing.member, name="", reason=f"{more} more")]
    return tuple(good.values()), tuple(bad)


def problem(listing: Listing, item: Any) -> str | None:
    """Why an item cannot be given to clients; None if it can."""
    if not isinstance(item, dict):
        return "it is no object"
    for member in _NEEDED[listing]:
        if not isinstance(item.get(member), str) or not item[member]:
            return f"{member} must be a text that is not empty"
    if listing is TOOLS:
        return _schemas_problem(item)
    if listing is RESOURCE_TEMPLATES:
        return _template_problem(item["uriTemplate"])
    return _arguments_problem(item) if listing is PROMPTS else None


def _schemas_problem(tool: Mapping[str, Any]) -> str | None:
    schema = tool.get("inputSchema")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        return 'inputSchema must be a schema with "type": "object"'
    for member in ("inputSchema", "outputSchema"):
        if member in tool and (why := _schema_problem(tool[member])) is not None:
            return f"{member}: {why}"
    return None


def _schema_problem(schema: Any) -> str | None:
    """Checked against its own dialect, 2020-12 unless it names another (MCP "Tools"); nothing is fetched."""
    if not isinstance(schema, dict):
        return "it is no object"
    if (size := _size_problem(schema)) is not None:
        return size
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"at /{'/'.join(map(str, error.absolute_path))}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    except Exception as error:  # noqa: BLE001 - the library's own faults, of which it has many for hostile schemas
        return f"it cannot be read: {type(error).__name__}"
    return None


def _size_problem(schema: Any) -> str | None:
    nodes, left = 0, [schema]
    while left:
        node = left.pop()
        nodes += 1
        if isinstance(node, list) and len(node) > LONGEST_LIST:
            return f"it has a list of more than {LONGEST_LIST} items"
        if nodes > MOST_NODES:
            return f"it has more than {MOST_NODES} parts"
        if isinstance(node, dict):
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)
    return None


def _template_problem(template: str) -> str | None:
    if template.count("{") > MOST_EXPRESSIONS:
        return f"uriTemplate has more than {MOST_EXPRESSIONS} expressions"
    if len(template) > LONGEST_TEMPLATE:
        return f"uriTemplate has more than {LONGEST_TEMPLATE} characters"
    return None


def _arguments_problem(prompt: Mapping[str, Any]) -> str | None:
    arguments = prompt.get("arguments", [])
    if not isinstance(arguments, list) or not all(
        isinstance(argument, dict) and isinstance(argument.get("name"), str) for argument in arguments
    ):
        return "arguments must be a list of objects with a name"
    return None


def _taken(listing: Listing, item: Mapping[str, Any], good: Mapping[str, object]) -> str | None:
    return f"another item has the same {listing.key}" if item[listing.key] in good else None


def _name(listing: Listing, item: Any) -> str:
    name = item.get(listing.key) if isinstance(item, dict) else None
    return name[:_SHOWN] if isinstance(name, str) else ""


_NEEDED: Mapping[Listing, tuple[str, ...]] = {
    TOOLS: ("name",),
    RESOURCES: ("uri", "name"),
    RESOURCE_TEMPLATES: ("uriTemplate", "name"),
    PROMPTS: ("name",),
}
