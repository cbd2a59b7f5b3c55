"""JSON as editors write it: with comments and trailing commas (the "JSON with Comments" of VS Code)."""

from __future__ import annotations

import re
from typing import Any

from common.domain.errors import ConfigurationError
from common.mcp.jsonrpc import JsonRpcError, strict_json

MAX_TEXT = 4 * 1024 * 1024
"""Longest text in characters."""

# An unclosed comment or string runs to the end of the text, so that no text is searched twice.
_STRING = r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)'
_STRING_OR_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*(?:.*?\*/|.*\Z)", re.DOTALL)
_STRING_OR_COMMA = re.compile(rf"{_STRING}|,(?=\s*+[}}\]])", re.DOTALL)
_NOT_NEWLINE = re.compile(r"[^\n]")


def loads(text: str) -> Any:
    """Parse; :class:`ConfigurationError` for anything that is not one such text, duplicate keys included."""
    if len(text) > MAX_TEXT:
        raise ConfigurationError(f"the text is longer than {MAX_TEXT} characters")
    plain = _STRING_OR_COMMA.sub(_blank_unless_string, _STRING_OR_COMMENT.sub(_blank_unless_string, text))
    try:
        return strict_json(plain.removeprefix("\ufeff").encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigurationError("not JSON: the text holds a lone surrogate") from None
    except JsonRpcError as error:
        reason = error.message.removeprefix("Parse error: ")
        raise ConfigurationError(f"not JSON: {reason}") from None


def _blank_unless_string(found: re.Match[str]) -> str:
    # Line breaks stay, so that the line of an error is the line in the file.
    return found[0] if found[0].startswith('"') else _NOT_NEWLINE.sub(" ", found[0])
