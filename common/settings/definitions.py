"""Definitions of tools as operators read and write them at run time: entries of the file, with masked secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from common.domain.errors import InvalidRequest
from common.domain.tool import MASK, HttpTransport, Tool
from common.settings.entry_of import entry_of
from common.settings.masking import masked_tool
from common.settings.model import RuntimeSettings
from common.settings.tools import read_tool

_SENT_TO = {"env": "command", "args": "command", "headers": "url", "options": "factory"}
"""Fields that may hold secrets, and who is given them."""
_SECRETS = ("env", "headers", "options")
_PORTS = {"http": 80, "https": 443}


def masked_definition(tool: Tool) -> dict[str, Any]:
    """The entry that makes this tool, its secrets masked."""
    return masked_tool(tool)


def unmasked_entry(entry: Mapping[str, Any], present: Tool | None) -> dict[str, Any]:
    """``entry`` with the secrets that ``present`` has, where it holds masks: what was read can be written back.

    Raises :class:`InvalidRequest` for a mask that stands for nothing, that is only a part of a value, or whose secret
    would be given to another command, URL or factory than it was written for: who may not read it may not send it away.
    """
    held = {} if present is None else entry_of(present)
    shown = {} if present is None else masked_tool(present)
    return {name: _unmasked(name, entry, held, shown.get(name)) for name in entry}


def check_kept_secrets(present: Tool, patch: Mapping[str, Any]) -> None:
    """Raise :class:`InvalidRequest` if secrets that ``patch`` does not name would go along to another place with it."""
    held = entry_of(present)
    for name in _SECRETS:
        if held.get(name) and name not in patch and (moved := _moved(name, patch, held)):
            raise InvalidRequest(
                f"{name} was given for another {moved} and does not go along with it: give {name} as well, "
                "or null for none",
                field=name,
            )


def check_credentials_stay(present: Tool | None, wanted: Tool) -> None:
    """Raise :class:`InvalidRequest` if ``wanted`` would have secrets of providers go where they do not go by now.

    Over HTTP only a host counts; of a process all that says what runs. Who may change a tool over the network and reads
    no secret could have them sent to himself.
    """
    if wanted.credentials is None:
        return
    if present is None or present.credentials != wanted.credentials or _whose(present) != _whose(wanted):
        raise InvalidRequest(
            "credentials of tools, and who is given them, are said in the settings file; "
            "admin.allow_credentials lets the admin API say it as well",
            field="credentials",
        )


def _whose(tool: Tool) -> object:
    if isinstance(tool.transport, HttpTransport):
        return _place("url", tool.transport.url)
    return tool.transport


def _unmasked(name: str, entry: Mapping[str, Any], held: Mapping[str, Any], shown: Any) -> Any:
    value, present = entry[name], held.get(name)
    moved = _moved(name, entry, held)
    if name in _SECRETS and isinstance(value, Mapping):
        return {key: _item(f"{name}.{key}", item, present, key, moved) for key, item in value.items()}
    if value == shown and present is not None and not (moved and value != present):
        return present
    if MASK in str(value):
        raise _refused(name, moved)
    return value


def _item(field: str, item: Any, present: Any, key: Any, moved: str) -> Any:
    if MASK not in str(item):
        return item
    if item != MASK or moved or key not in (present or {}):
        raise _refused(field, moved)
    return present[key]


def _refused(field: str, moved: str) -> InvalidRequest:
    why = f"its value was given for another {moved}" if moved else "there is no value that this stands for"
    return InvalidRequest(f"{field} is masked, and {why}: give it", field=field)


def _moved(name: str, entry: Mapping[str, Any], held: Mapping[str, Any]) -> str:
    """The field by which ``entry`` gives what is called ``name`` to somebody else; empty if it does not."""
    given_to = _SENT_TO.get(name, "")
    if given_to not in entry or given_to not in held:
        return ""
    return given_to if _place(given_to, entry[given_to]) != _place(given_to, held[given_to]) else ""


def _place(name: str, value: Any) -> object:
    """Who that is; of a URL only its scheme, host and port."""
    if name != "url" or not isinstance(value, str):
        return value
    try:
        parts = urlsplit(value)
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:  # it is refused where it is read
        return value


def tool_from_entry(tool: str, entry: Mapping[str, Any], runtime: RuntimeSettings) -> Tool:
    """The tool that an entry makes. Raises :class:`InvalidRequest` that names each key at fault."""
    found = read_tool(tool, entry, runtime)
    if isinstance(found, list):
        first = found[0][0][2:]
        raise InvalidRequest(
            "; ".join(message for _, message in found), field=".".join(map(str, first)) or "definition"
        )
    return found
