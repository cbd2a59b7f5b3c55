"""Schemas and blobs the conformance suite looks for, word for word.

Source: the checks of ``@modelcontextprotocol/conformance`` at the version in ``package.json``;
each name below is named by one of them.
"""

from __future__ import annotations

from typing import Any, Final

JsonObject = dict[str, Any]

PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
)
WAV: Final = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

NO_ARGUMENTS: Final[JsonObject] = {"type": "object", "properties": {}}


def text_argument(name: str, description: str) -> JsonObject:
    """Return the input schema of a tool that takes one required string."""
    properties = {name: {"type": "string", "description": description}}
    return {"type": "object", "properties": properties, "required": [name]}


def form(**fields: JsonObject) -> JsonObject:
    """Return an elicitation form in which every field is required."""
    return {"type": "object", "properties": fields, "required": list(fields)}


NAME_FORM: Final = form(name={"type": "string"})
COLOR_FORM: Final = form(color={"type": "string"})
CONFIRM_FORM: Final = form(ok={"type": "boolean"})
CONTEXT_FORM: Final = form(context={"type": "string"})
RESPONSE_FORM: Final = form(response={"type": "string", "description": "User's response"})

# SEP-1034: one default of every primitive type, so that a relay which drops or retypes defaults is seen.
DEFAULTS_FORM: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "User name", "default": "John Doe"},
        "age": {"type": "integer", "description": "User age", "default": 30},
        "score": {"type": "number", "description": "User score", "default": 95.5},
        "status": {
            "type": "string",
            "description": "User status",
            "enum": ["active", "inactive", "pending"],
            "default": "active",
        },
        "verified": {"type": "boolean", "description": "Verification status", "default": True},
    },
    "required": [],
}

# SEP-1330: the five enum spellings.
ENUM_FORM: Final = form(
    untitledSingle={"type": "string", "enum": ["option1", "option2", "option3"]},
    titledSingle={
        "type": "string",
        "oneOf": [
            {"const": "value1", "title": "First Option"},
            {"const": "value2", "title": "Second Option"},
            {"const": "value3", "title": "Third Option"},
        ],
    },
    legacyEnum={
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    untitledMulti={"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    titledMulti={
        "type": "array",
        "items": {
            "anyOf": [
                {"const": "value1", "title": "First Choice"},
                {"const": "value2", "title": "Second Choice"},
                {"const": "value3", "title": "Third Choice"},
            ]
        },
    },
)

# SEP-1613, SEP-2106: every 2020-12 keyword here must still be there in tools/list.
SCHEMA_2020_12: Final[JsonObject] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

# SEP-2243: an argument that a modern client repeats as the header Mcp-Param-Region.
HEADER_ARGUMENT: Final[JsonObject] = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "description": "Repeated in Mcp-Param-Region", "x-mcp-header": "Region"}
    },
}
