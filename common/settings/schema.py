"""The JSON Schema (draft 2020-12) of the file, for editors and for checks in other programs.

``python -m common.settings.schema [FILE]`` writes it, by default to docs/canalgate.schema.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from common.domain.ids import MAX_ID_LENGTH
from common.settings.entry import KINDS
from common.settings.model import SECTIONS
from common.settings.section import Section

DEFAULT_TARGET = Path("docs/canalgate.schema.json")

_REFERENCE = {"type": "string", "pattern": r"\$\{.+\}", "description": "A reference such as ${NAME}."}
_SCALAR: dict[str, Any] = {"type": ["string", "number", "boolean"]}
_OUTER = frozenset({"title", "description", "default"})


def json_schema() -> dict[str, Any]:
    """The schema of canalgate.yaml. Where a number or a choice is wanted, a ``${NAME}`` reference will do."""
    models: list[type[Section]] = [*SECTIONS.values(), *KINDS.values()]
    _, whole = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    definitions: dict[str, Any] = whole["$defs"]
    for definition in definitions.values():
        for name, schema in definition["properties"].items():
            definition["properties"][name] = (
                _textual(schema) if name in ("args", "env", "headers") and "type" in schema else _open(schema)
            )
    definitions["TenantsSettings"]["properties"]["listed"]["anyOf"][0]["items"] = {
        "anyOf": [{"type": "string", "minLength": 1}, {"$ref": "#/$defs/TenantSettings"}]
    }
    properties: dict[str, Any] = {
        name: {
            "description": model.__doc__,
            "anyOf": [{"$ref": f"#/$defs/{model.__name__}"}, {"type": "null"}],
        }
        for name, model in SECTIONS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "canalgate.yaml",
        "description": "Configuration of the Canalgate MCP gateway.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties | {"tools": _tools()},
        "$defs": definitions,
    }


def _tools() -> dict[str, Any]:
    entries = [{"$ref": f"#/$defs/{model.__name__}"} for model in KINDS.values()]
    return {
        "description": "Backend MCP servers by name: each has a command (stdio), a url (Streamable HTTP) or a factory.",
        "type": ["object", "null"],
        "propertyNames": {"minLength": 1, "maxLength": MAX_ID_LENGTH},
        "additionalProperties": {"anyOf": entries},
    }


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema``, or a reference that stands for such a value."""
    if "const" in schema or (schema.get("type") == "string" and "enum" not in schema):
        return schema
    outer = {key: value for key, value in schema.items() if key in _OUTER}
    inner = {key: value for key, value in schema.items() if key not in _OUTER}
    alternatives = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    if any(alternative.get("type") == "array" for alternative in alternatives):
        return outer | {"anyOf": [*alternatives, {"type": "string", "description": "The list as text: a, b"}]}
    if any(alternative.get("type") == "string" and "enum" not in alternative for alternative in alternatives):
        return schema
    return outer | {"anyOf": [*alternatives, _REFERENCE]}


def _textual(schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments, variables and headers are text: 8080 and yes are taken as they are written."""
    inner = "items" if schema["type"] == "array" else "additionalProperties"
    return schema | {inner: _SCALAR}


def text() -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write the schema to the file named first, or to :data:`DEFAULT_TARGET`."""
    target = Path(arguments[0]) if arguments else DEFAULT_TARGET
    target.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
