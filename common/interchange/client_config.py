"""The gateway's entry in an MCP client's own file: in JSON, or for Codex in TOML; alone, or put into a file there is.

The key of an API is named by the environment variable that the client reads it from. Where each client's format is
documented: Claude Code, ``.mcp.json`` (code.claude.com/docs/en/mcp); Cursor, ``.cursor/mcp.json``
(cursor.com/docs/mcp); VS Code, ``.vscode/mcp.json`` (code.visualstudio.com/docs/copilot/reference/mcp-configuration);
Codex, ``~/.codex/config.toml`` (developers.openai.com/codex/mcp).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import orjson

from common.domain.errors import ConfigurationError
from common.interchange import jsonc
from common.interchange.exporters import Flavour, client_entry, section_of
from common.mcp.jsonrpc import JsonRpcError, strict_json

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+", re.ASCII)


class ClientKind(StrEnum):
    """Whose file it is."""

    CLAUDE_CODE = "claude-code"
    CURSOR = "cursor"
    VSCODE = "vscode"
    CODEX = "codex"


FLAVOURS: Mapping[ClientKind, Flavour] = {
    ClientKind.CLAUDE_CODE: Flavour.CLAUDE,
    ClientKind.CURSOR: Flavour.CURSOR,
    ClientKind.VSCODE: Flavour.VSCODE,
}
"""The clients whose file is JSON."""
FILES: Mapping[ClientKind, str] = {
    ClientKind.CLAUDE_CODE: ".mcp.json",
    ClientKind.CURSOR: ".cursor/mcp.json",
    ClientKind.VSCODE: ".vscode/mcp.json",
    ClientKind.CODEX: "~/.codex/config.toml",
}
"""Where each client looks: in the project, Codex in the home directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The API key that a client sends: ``variable`` is where it reads it from, ``literal`` the key itself.

    Raises :class:`ConfigurationError` for a name that is none of a variable.
    """

    variable: str | None = None
    literal: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.variable is not None and _VARIABLE.fullmatch(self.variable) is None:
            raise ConfigurationError(
                f"{self.variable!r} is no name of an environment variable: letters, digits and _",
                field="--key-env",
            )


NO_KEY = Key()


def entry_name(tool: str | None, base: str = "canalgate") -> str:
    """A name that every client takes, for the gateway or for one of its tools."""
    if tool is None:
        return base
    return f"{base}-{_UNSAFE.sub('-', tool).strip('-') or 'tool'}"


def rendered(kind: ClientKind, endpoints: Mapping[str, str], key: Key = NO_KEY) -> str:
    """A file that holds these entries and nothing else. ``endpoints`` are URLs by the names of the entries."""
    return merged(kind, "", endpoints, key)


def merged(
    kind: ClientKind, text: str, endpoints: Mapping[str, str], key: Key = NO_KEY, *, replace: bool = False
) -> str:
    """The text of a client's file with these entries in it; all else that it holds stays.

    Raises :class:`ConfigurationError` if the text is no such file, or has another entry of one of the names (of JSON
    ``replace`` replaces it).
    """
    if kind is ClientKind.CODEX:
        return _into_toml(text, endpoints, key)
    return _into_json(FLAVOURS[kind], text, endpoints, key, replace=replace)


def _into_json(flavour: Flavour, text: str, endpoints: Mapping[str, str], key: Key, *, replace: bool) -> str:
    tree = _json(text)
    section = section_of(flavour)
    present = tree.get(section, {})
    if not isinstance(present, dict):
        raise ConfigurationError(f"{section} must be an object in the client's file")
    wanted = {name: client_entry(url, _headers(key), flavour) for name, url in endpoints.items()}
    for name, entry in wanted.items():
        if present.get(name, entry) != entry and not replace:
            raise ConfigurationError(
                f"the client's file has another entry {name!r}: choose another name with --name, or give --replace",
                field="--name",
            )
    if all(present.get(name) == entry for name, entry in wanted.items()):
        return text
    tree = {**tree, section: {**present, **wanted}}
    return orjson.dumps(tree, option=orjson.OPT_INDENT_2).decode() + "\n"


def _json(text: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    found = jsonc.loads(text)
    if not isinstance(found, dict):
        raise ConfigurationError("the client's file must hold a JSON object")
    try:
        strict_json(text.removeprefix("\ufeff").encode())
    except JsonRpcError:
        raise ConfigurationError(
            "the client's file holds comments, which would be lost: put the entry in by hand"
        ) from None
    return found


def _headers(key: Key) -> dict[str, str]:
    if key.literal is not None:
        return {"Authorization": f"Bearer {key.literal}"}
    return {} if key.variable is None else {"Authorization": f"Bearer ${{{key.variable}}}"}


def _into_toml(text: str, endpoints: Mapping[str, str], key: Key) -> str:
    before = _toml(text)
    present = before.get("mcp_servers", {})
    added, wanted = "", dict(present) if isinstance(present, dict) else {}
    for name, url in endpoints.items():
        table = _table(name, url, key)
        entry = tomllib.loads(table)["mcp_servers"][name]
        if name not in wanted:
            added += f"\n{table}"
        elif wanted[name] != entry:
            raise ConfigurationError(
                f"the client's file has another table [mcp_servers.{name}]: take it out, or choose another name "
                "with --name",
                field="--name",
            )
        wanted[name] = entry
    if not added:
        return text
    grown = f"{text.rstrip()}\n{added}".lstrip("\n")
    if _toml(grown) != {**before, "mcp_servers": wanted}:
        raise ConfigurationError(
            "the entry cannot be added to mcp_servers as the file has it: put it in by hand"
        )
    return grown


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"the client's file is not TOML, or would not be with the entry: {error}"
        ) from None


def _table(name: str, url: str, key: Key) -> str:
    lines = [f"[mcp_servers.{name}]", f"url = {_quoted(url)}"]
    if key.literal is not None:
        lines.append(f"http_headers = {{ Authorization = {_quoted(f'Bearer {key.literal}')} }}")
    elif key.variable is not None:
        lines.append(f"bearer_token_env_var = {_quoted(key.variable)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A basic string of TOML; JSON's escapes are TOML's as well."""
    return json.dumps(text)
