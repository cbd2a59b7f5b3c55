"""The strict JSON-RPC 2.0 codec for the edges: what two parsers could read differently is refused.

What is authorised must be what is sent on, so a body that another parser might understand in another way
(duplicate keys, NaN, numbers that lose digits, unknown envelope members) never gets past this module.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import orjson

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_CLIENT_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
REQUEST_CANCELLED: Final = -32800

MIN_INTEGER: Final = -(2**63)
"""Smallest integer accepted. With `MAX_INTEGER` it is the range that orjson reads and writes exactly; beyond
it orjson would turn an integer into a rounded float."""
MAX_INTEGER: Final = 2**64 - 1
"""Largest integer accepted (unsigned 64 bit, because identifiers of that width are common)."""

MAX_DEPTH: Final = 64
"""Default bound on nesting: `[]` is 1 deep, `[[]]` is 2 deep."""

_BOM: Final = b"\xef\xbb\xbf"
_REQUEST_MEMBERS: Final = frozenset({"jsonrpc", "id", "method", "params"})
_RESPONSE_MEMBERS: Final = frozenset({"jsonrpc", "id", "result"})
_ERROR_MEMBERS: Final = frozenset({"jsonrpc", "id", "error"})
_PARAMS: Final = frozenset(
    {
        "_meta",
        "argument",
        "arguments",
        "capabilities",
        "clientInfo",
        "context",
        "cursor",
        "inputResponses",
        "level",
        "name",
        "notifications",
        "protocolVersion",
        "reason",
        "ref",
        "requestId",
        "requestState",
        "task",
        "uri",
    }
)
_REFERENCE_MEMBERS: Final = frozenset({"name", "type", "uri"})
_FOLDED: Final = {name.casefold(): name for name in _PARAMS | _REFERENCE_MEMBERS}
_WHITESPACE: Final = b" \t\r\n"
_LONG_DIGITS: Final = re.compile(rb"[0-9]{19}")
_NUMBER: Final = re.compile(rb"-?[0-9][0-9.eE+-]*")
_NON_FINITE: Final = re.compile(r"NaN|Infinity")


class JsonRpcError(Exception):
    """A JSON-RPC error to be sent to the peer.

    `request_id` is the id of the message at fault where it could be read, else None.
    """

    def __init__(
        self, code: int, message: str, data: Any = None, *, request_id: str | int | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


@dataclass(frozen=True, slots=True)
class Request:
    """A call that wants exactly one answer. Absent `params` read as `{}`."""

    id: str | int
    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that wants no answer. Absent `params` read as `{}`."""

    method: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """A successful answer; in MCP a result is always an object."""

    id: str | int
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A failed answer: `error` has an integer `code` and a string `message`. `id` None: it was not known."""

    id: str | int | None
    error: dict[str, Any]


Message = Request | Notification | Response | ErrorResponse


def strict_json(raw: bytes, *, max_depth: int = MAX_DEPTH) -> Any:
    """Parse one JSON text (RFC 8259, UTF-8) that every parser reads alike.

    Refused: invalid UTF-8, a byte order mark, NaN and Infinity, lone surrogates, duplicate keys, integers
    outside `MIN_INTEGER..MAX_INTEGER`, floats that overflow, nesting deeper than `max_depth` (at most 1024).
    Raises JsonRpcError(PARSE_ERROR) that says which; never anything else.
    """
    # orjson is native, stops at 1024 levels and so cannot exhaust the Python stack: hostile depth is safe to
    # parse.
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise JsonRpcError(PARSE_ERROR, _fault(raw, error)) from None
    # The text is now known to be valid JSON, so every quote outside an escape pair opens or closes a string.
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in raw else raw
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    # One colon outside strings per member as written; orjson keeps the last of two equal keys.
    if outside_strings.count(b":") != _count_members(value, max_depth):
        raise JsonRpcError(PARSE_ERROR, _duplicate_key_fault(raw))
    if _LONG_DIGITS.search(outside_strings):
        _check_integers(outside_strings)
    return value


def parse_message(raw: bytes) -> Message:
    """Parse exactly one JSON-RPC 2.0 message, as MCP narrows it (string or integer ids, object params and
    result).

    Raises JsonRpcError: PARSE_ERROR as `strict_json`; INVALID_PARAMS for a `_meta` that is no object (backends look
    into it); INVALID_REQUEST for anything else that is not one message. The error's `request_id` is set where the
    id could be read.
    """
    return _one_message(strict_json(raw))


def is_batch(raw: bytes) -> bool:
    """Whether a text, if it is JSON, is an array."""
    return raw.lstrip(_WHITESPACE)[:1] == b"["


def parse_batch(raw: bytes, most: int) -> list[Message | JsonRpcError]:
    """Parse a batch of up to ``most`` messages (JSON-RPC 2.0, section 6), each as `parse_message` does; what is wrong
    with one stands in its place.

    Raises JsonRpcError as `strict_json`, and INVALID_REQUEST for a batch of none or of too many.
    """
    body = strict_json(raw)
    if type(body) is not list or not 0 < len(body) <= most:
        raise JsonRpcError(INVALID_REQUEST, f"Invalid request: a batch has one to {most} messages")
    return [_message_or_fault(element) for element in body]


def _message_or_fault(body: Any) -> Message | JsonRpcError:
    try:
        return _one_message(body)
    except JsonRpcError as error:
        return error


def _one_message(body: Any) -> Message:
    if type(body) is not dict:
        what = "batches are not supported" if type(body) is list else "the body must be a JSON object"
        raise JsonRpcError(INVALID_REQUEST, f"Invalid request: {what}")
    message_id = body.get("id")
    if "id" in body and not _is_id(message_id) and not ("error" in body and message_id is None):
        raise JsonRpcError(INVALID_REQUEST, "Invalid request: id must be a string or an integer")
    try:
        return _message(body, message_id)
    except JsonRpcError as error:
        error.request_id = message_id
        raise


def dumps(obj: Any) -> bytes:
    """Write compact UTF-8 JSON.

    What orjson cannot write but JSON can (integers beyond 64 bit, lone surrogates as escapes, more than 254
    levels), which a backend may have sent, is written by the slower standard encoder. NaN and infinities
    become null, as in JavaScript. Raises JsonRpcError(INTERNAL_ERROR) for what JSON cannot carry.
    """
    try:
        return orjson.dumps(obj)
    except orjson.JSONEncodeError:
        pass
    try:
        return json.dumps(obj, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise JsonRpcError(INTERNAL_ERROR, f"The value cannot be written as JSON: {error}") from None


def result_response(message_id: str | int, result: dict[str, Any]) -> dict[str, Any]:
    """The envelope of a successful answer."""
    return {"jsonrpc": "2.0", "id": message_id, "result": result}


def error_response(message_id: str | int | None, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """The envelope of a failed answer; `data` None is left out."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": message_id, "error": error}


def _is_id(value: Any) -> bool:
    return type(value) is str or type(value) is int


def _message(body: dict[str, Any], message_id: Any) -> Message:
    if body.get("jsonrpc") != "2.0":
        raise JsonRpcError(INVALID_REQUEST, 'Invalid request: jsonrpc must be "2.0"')
    if "method" in body:
        return _call(body, message_id)
    if "result" in body:
        _refuse_unknown(body, _RESPONSE_MEMBERS)
        if "id" not in body:
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: a response must carry an id")
        return Response(message_id, _object(body, "result"))
    if "error" in body:
        _refuse_unknown(body, _ERROR_MEMBERS)
        error = _object(body, "error")
        if type(error.get("code")) is not int or type(error.get("message")) is not str:
            raise JsonRpcError(
                INVALID_REQUEST, "Invalid request: error must have an integer code and a string message"
            )
        return ErrorResponse(message_id, error)
    raise JsonRpcError(INVALID_REQUEST, "Invalid request: one of method, result or error is required")


def _call(body: dict[str, Any], message_id: Any) -> Request | Notification:
    _refuse_unknown(body, _REQUEST_MEMBERS)
    method = body["method"]
    if type(method) is not str:
        raise JsonRpcError(INVALID_REQUEST, "Invalid request: method must be a string")
    params = _object(body, "params") if "params" in body else {}
    _refuse_look_alikes(params, _PARAMS)
    if "_meta" in params and type(params["_meta"]) is not dict:
        raise JsonRpcError(INVALID_PARAMS, "params._meta must be an object; leave it out to say nothing")
    if type(reference := params.get("ref")) is dict:
        _refuse_look_alikes(reference, _REFERENCE_MEMBERS)
    return Request(message_id, method, params) if "id" in body else Notification(method, params)


def _refuse_unknown(body: dict[str, Any], known: frozenset[str]) -> None:
    if not body.keys() <= known:
        names = ", ".join(sorted(_shown(name) for name in body.keys() - known)[:5])
        raise JsonRpcError(INVALID_REQUEST, f"Invalid request: unexpected member {names}")


def _refuse_look_alikes(params: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse other spellings of what the protocol names, as far as readers fold them.

    Go's `encoding/json` takes `Name`, `NAME` and, with a long s, `argument\\u017f` for a member that it knows, and the
    last one wins: a backend that reads so would do something else than we authorised (CVE-2026-27896).
    """
    for name in params:
        if name not in known and (plain := _FOLDED.get(name.casefold())) in known:
            raise JsonRpcError(INVALID_REQUEST, f"Invalid request: {_shown(name)} may be read as {plain}")


def _object(body: dict[str, Any], member: str) -> dict[str, Any]:
    value = body[member]
    if type(value) is not dict:
        raise JsonRpcError(INVALID_REQUEST, f"Invalid request: {member} must be an object")
    return value


def _count_members(value: Any, max_depth: int) -> int:
    """How many members all objects in `value` have; walks level by level, so the depth falls out as well."""
    members = 0
    depth = 0
    level = [value] if isinstance(value, dict | list) else []
    while level:
        depth += 1
        if depth > max_depth:
            raise JsonRpcError(PARSE_ERROR, f"Parse error: nested more than {max_depth} deep")
        below: list[Any] = []
        for node in level:
            children: Iterable[Any] = node
            if type(node) is dict:
                members += len(node)
                children = node.values()
            below.extend([child for child in children if type(child) is dict or type(child) is list])
        level = below
    return members


def _check_integers(outside_strings: bytes) -> None:
    for token in _NUMBER.findall(outside_strings):
        if len(token) < 19 or not token.lstrip(b"-").isdigit():
            continue
        # orjson has already refused what overflows a float, so int() never meets more than 309 digits.
        if not MIN_INTEGER <= int(token) <= MAX_INTEGER:
            raise JsonRpcError(PARSE_ERROR, "Parse error: integer outside -2**63..2**64-1")


def _fault(raw: bytes, error: orjson.JSONDecodeError) -> str:
    if raw.startswith(_BOM):
        return "Parse error: a byte order mark is not allowed"
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as invalid:
        return f"Parse error: invalid UTF-8 at byte {invalid.start}"
    if _NON_FINITE.match(text, error.pos):
        return f"Parse error: NaN and Infinity are not JSON (character {error.pos})"
    return f"Parse error: {error.msg} (character {error.pos})"


class _DuplicateKeyError(Exception):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _DuplicateKeyError(_shown(name))
        seen.add(name)


def _duplicate_key_fault(raw: bytes) -> str:
    """Name the duplicate; only the way to a refusal pays for this second parse."""
    try:
        json.JSONDecoder(object_pairs_hook=_refuse_duplicates).decode(raw.decode("utf-8"))
    except _DuplicateKeyError as duplicate:
        return f"Parse error: duplicate key {duplicate}"
    except (
        RecursionError,
        ValueError,
    ):  # what orjson can read and this parser cannot: depth, very long integers
        pass
    return "Parse error: duplicate key"


def _shown(name: str) -> str:
    """A peer's text made safe for a message: quoted, escaped, short."""
    return ascii(name if len(name) <= 64 else name[:64] + "...")
