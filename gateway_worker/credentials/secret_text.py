"""What a secret manager's secret holds, where it keeps one text a secret."""

from __future__ import annotations

from common.domain.credentials import Credentials
from common.mcp.jsonrpc import JsonRpcError, strict_json

WHOLE = "value"
"""The key of a secret that is no JSON object."""


def credentials_in(text: str, version: str) -> Credentials | None:
    """The texts of a JSON object by their keys, or the whole text as ``value``; None for an empty one.

    Members that are no text are left out: a tool that names one lacks it. They are not turned into what nobody meant.
    """
    try:
        found = strict_json(text.encode())
    except JsonRpcError:
        found = None
    values = found if isinstance(found, dict) else {WHOLE: text}
    values = {name: value for name, value in values.items() if isinstance(value, str) and value}
    return Credentials.of(values, version=version) if values else None
