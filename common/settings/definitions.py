"""Definitions of tools as operators read and write them at run time: entries of the file, with masked secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.domain.errors import InvalidRequest
from common.domain.tool import MASK, Tool
from common.settings.entry_of import entry_of
from common.settings.masking import masked_tool
from common.settings.model import RuntimeSettings
from common.settings.tools import read_tool

_SECRETS = ("env", "headers", "options")


def masked_definition(tool: Tool) -> dict[str, Any]:
    """The entry that makes this tool, its secrets masked."""
    return masked_tool(tool)


def unmasked_entry(entry: Mapping[str, Any], present: Tool | None) -> dict[str, Any]:
    """``entry`` with the secrets that ``present`` has, where it holds masks: what was read can be written back.

    Raises :class:`InvalidRequest` for a mask that stands for nothing.
    """
    held = {} if present is None else entry_of(present)
    shown = {} if present is None else masked_tool(present)
    return {name: _unmasked(name, value, held.get(name), shown.get(name)) for name, value in entry.items()}


def _unmasked(name: str, value: Any, held: Any, shown: Any) -> Any:
    if name in _SECRETS and isinstance(value, Mapping):
        return {
            key: _own(f"{name}.{key}", (held or {}).get(key)) if item == MASK else item
            for key, item in value.items()
        }
    if value == shown and held is not None:
        return held
    if MASK in str(value):
        return _own(name, None)
    return value


def _own(field: str, held: Any) -> Any:
    if held is None:
        raise InvalidRequest(
            f"{field} is masked, and there is no value that this stands for: give it", field=field
        )
    return held


def tool_from_entry(tool: str, entry: Mapping[str, Any], runtime: RuntimeSettings) -> Tool:
    """The tool that an entry makes. Raises :class:`InvalidRequest` that names each key at fault."""
    found = read_tool(tool, entry, runtime)
    if isinstance(found, list):
        first = found[0][0][2:]
        raise InvalidRequest(
            "; ".join(message for _, message in found), field=".".join(map(str, first)) or "definition"
        )
    return found
