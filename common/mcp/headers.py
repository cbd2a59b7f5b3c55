"""HTTP header values of the modern era: how text travels in a field, and headers that repeat tool arguments.

`x-mcp-header` in a tool's input schema names an argument that an `Mcp-Param-*` header repeats, so that
intermediaries can route on it. Source: revision 2026-07-28, Streamable HTTP, value encoding and custom
headers from tool parameters.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from common.mcp.jsonrpc import HEADER_MISMATCH, JsonRpcError

ANNOTATION: Final = "x-mcp-header"
HEADER_PREFIX: Final = "Mcp-Param-"

Path = tuple[str, ...]

_OPTIONAL_WHITESPACE: Final = " \t"
_SENTINEL_START: Final = "=?base64?"
_SENTINEL_END: Final = "?="
_PRINTABLE_ASCII: Final = re.compile(r"[ -~]*")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DECIMAL: Final = re.compile(r"(-?[0-9]+)(?:\.0+)?")
_TYPES: Final = ("string", "integer", "boolean")

# The keywords of JSON Schema 2020-12 that hold schemas. What holds data (`default`, `const`, `enum`,
# `examples`) may contain the same key by chance, and `$ref` is not followed.
_ONE_SCHEMA: Final = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_SCHEMA_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMA_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties"})


def encode_header_value(value: str) -> str:
    """`value` as an HTTP field value: itself where a field keeps it unchanged, else `=?base64?...?=`.

    Raises UnicodeEncodeError for a lone surrogate.
    """
    plain = _PRINTABLE_ASCII.fullmatch(value) and value == value.strip(" ") and not _is_sentinel(value)
    if plain:
        return value
    return _SENTINEL_START + base64.b64encode(value.encode("utf-8")).decode("ascii") + _SENTINEL_END


def decode_header_value(value: str | None) -> str | None:
    """The inverse of `encode_header_value`; None for an absent header and for a malformed sentinel.

    Only canonical base64 counts, so that one value has one spelling.
    """
    if value is None or not _is_sentinel(value):
        return value
    payload = value[len(_SENTINEL_START) : -len(_SENTINEL_END)]
    try:
        decoded = base64.b64decode(payload.encode("ascii"), validate=True)
        text = decoded.decode("utf-8")
    except (binascii.Error, UnicodeError):
        return None
    # `validate` tolerates stray bits behind the last character.
    return text if base64.b64encode(decoded).decode("ascii") == payload else None


def trimmed(headers: Mapping[str, str], name: str) -> str | None:
    """A header without its outer whitespace (RFC 9110 section 5.5), which some servers leave in place."""
    value = headers.get(name)
    return None if value is None else value.strip(_OPTIONAL_WHITESPACE)


def invalid_x_mcp_header(input_schema: Any) -> str | None:
    """Why the annotations of this schema are invalid, else None. A client drops such a tool from HTTP lists.

    Each must sit on a string, integer or boolean property that is reached through `properties` alone, be an
    RFC 9110 token, and be unique in the schema whatever its case.
    """
    taken: dict[str, str] = {}
    for path, schema in _schemas(input_schema):
        if ANNOTATION not in schema:
            continue
        if not path:
            return f"{ANNOTATION} is only allowed on properties reached through `properties` alone"
        where = ".".join(path)
        fault = _annotation_fault(schema)
        if fault is not None:
            return f"property {where!r}: {fault}"
        token = schema[ANNOTATION].lower()
        if token in taken:
            return f"property {where!r}: {ANNOTATION} {token!r} is already used by property {taken[token]!r}"
        taken[token] = where
    return None


def x_mcp_header_map(input_schema: Any) -> dict[Path, str]:
    """Property path -> header token, of a schema that `invalid_x_mcp_header` accepts."""
    return {path: schema[ANNOTATION] for path, schema in _annotated(input_schema)}


def mcp_param_headers(header_map: Mapping[Path, str], arguments: Mapping[str, Any]) -> dict[str, str]:
    """The headers to send with these arguments; none for what is absent, null, or no scalar with a text."""
    headers: dict[str, str] = {}
    for path, token in header_map.items():
        text = _header_text(_value_at(arguments, path))
        if text is not None:
            headers[HEADER_PREFIX + token] = encode_header_value(text)
    return headers


def check_mcp_param_headers(
    input_schema: Any, arguments: Mapping[str, Any], headers: Mapping[str, str]
) -> JsonRpcError | None:
    """The first `Mcp-Param-*` header at odds with the arguments, as a HEADER_MISMATCH error, else None.

    A header without its argument is refused like an argument without its header: somebody on the way may have
    routed on a value that the body never had. An invalid schema checks nothing, since clients send no headers
    for it.
    """
    annotated = list(_annotated(input_schema))
    if not annotated or invalid_x_mcp_header(input_schema) is not None:
        return None
    given, repeated = _folded(headers)
    for path, schema in annotated:
        header = HEADER_PREFIX + schema[ANNOTATION]
        name = header.lower()
        if name in repeated:
            return _mismatch(f"{header} header appears more than once")
        fault = _disagreement(_value_at(arguments, path), schema["type"], given.get(name))
        if fault is not None:
            return _mismatch(f"{header} header and the argument {'.'.join(path)!r} differ: {fault}")
    return None


def _is_sentinel(value: str) -> bool:
    long_enough = len(value) >= len(_SENTINEL_START) + len(_SENTINEL_END)
    return long_enough and value.startswith(_SENTINEL_START) and value.endswith(_SENTINEL_END)


def _schemas(root: Any) -> Iterator[tuple[Path | None, dict[str, Any]]]:
    """Every schema in `root` with its chain of `properties` keys; None once another keyword was crossed."""
    pending: list[tuple[Path | None, Any]] = [((), root)]
    while pending:  # a list, not recursion: schemas come from backends and may be deep
        path, schema = pending.pop()
        if not isinstance(schema, dict):
            continue
        yield path, schema
        for keyword, value in schema.items():
            if keyword == "properties" and isinstance(value, dict):
                pending.extend((None if path is None else (*path, k), v) for k, v in value.items())
            else:
                pending.extend((None, inner) for inner in _inner_schemas(keyword, value))


def _inner_schemas(keyword: str, value: Any) -> list[Any]:
    if keyword in _ONE_SCHEMA:
        return [value]
    if keyword in _SCHEMA_LISTS and isinstance(value, list):
        return value
    if keyword in _SCHEMA_MAPS and isinstance(value, dict):
        return list(value.values())
    return []


def _annotated(input_schema: Any) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, schema in _schemas(input_schema):
        if path and isinstance(schema.get(ANNOTATION), str):
            yield path, schema


def _annotation_fault(schema: dict[str, Any]) -> str | None:
    token = schema[ANNOTATION]
    if not isinstance(token, str):
        return f"{ANNOTATION} must be a string, not {type(token).__name__}"
    if not _TOKEN.fullmatch(token):
        return f"{ANNOTATION} {token!r} is not an RFC 9110 token"
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        return f"{ANNOTATION} needs the type to be one of {', '.join(_TYPES)}"
    return None


def _folded(headers: Mapping[str, str]) -> tuple[dict[str, str], set[str]]:
    given: dict[str, str] = {}
    repeated: set[str] = set()
    for name, value in headers.items():
        lowered = name.lower()
        if lowered in given:
            repeated.add(lowered)
        given[lowered] = value.strip(_OPTIONAL_WHITESPACE)
    return given, repeated


def _disagreement(value: Any, kind: str, header: str | None) -> str | None:
    text = _header_text(value)
    if text is None:
        return None if header is None else "the argument has no value that a header can carry"
    if header is None:
        return "the header is missing"
    decoded = decode_header_value(header)
    if decoded is None:
        return "the header is malformed base64"
    if decoded == text or (kind == "integer" and _same_integer(value, decoded)):
        return None
    return "the values are not equal"


def _same_integer(value: Any, decoded: str) -> bool:
    """Integers compare as numbers (`42` and `42.0`), exactly: no way round through floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, float) and not value.is_integer():
        return False
    decimal = _DECIMAL.fullmatch(decoded)
    try:
        return decimal is not None and int(decimal[1]) == int(value)
    except ValueError:  # more digits than Python converts
        return False


def _header_text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        return None
    try:
        text = str(value)
        text.encode("utf-8")
    except ValueError:  # an integer of more digits than Python converts, or a lone surrogate
        return None
    return text


def _value_at(arguments: Mapping[str, Any], path: Path) -> Any:
    node: Any = arguments
    for key in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def _mismatch(message: str) -> JsonRpcError:
    return JsonRpcError(HEADER_MISMATCH, message)
