"""Our side of the exchange: an entry that points a client at the gateway, and our tools in a client's format.

Exported tools never carry what looks like a secret. Such a value is replaced by a reference to an environment
variable, by this rule: the value of a variable, header, query parameter or ``--option`` whose *name* means a
secret (:func:`common.settings.secrecy.means_secret`), or that itself looks like a token
(:data:`TOKEN_SHAPES`), or a password in a URL. An authentication scheme (``Bearer``, ``Basic``, ``Token``)
stays readable in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

import orjson

from common.domain.custom import CustomTransport
from common.domain.errors import ConfigurationError
from common.domain.tool import HttpTransport, StdioTransport, Tool
from common.interchange.variables import environment_name
from common.settings.problems import shown
from common.settings.secrecy import means_secret

TOKEN_SHAPES = re.compile(
    r"(sk|pk|rk)[-_][A-Za-z0-9_-]{16,}|gh[a-z]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[a-z]-[\w-]{8,}|AKIA[A-Z0-9]{12,}|AIza[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_SCHEME = re.compile(r"(?P<scheme>Bearer|Basic|Token)\s+(?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_PASSWORD_IN_URL = re.compile(r"(?P<front>[A-Za-z][A-Za-z0-9+.-]*://[^/\s:@]*:)(?P<password>[^/\s@]+)(?=@)")
_OURS = re.compile(r"\$\{(?:env:)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Flavour(StrEnum):
    """Whose format to write."""

    CLAUDE = "claude"
    CURSOR = "cursor"
    VSCODE = "vscode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The client's file as text, the variables it refers to, and notes on what it cannot hold."""

    text: str
    variables: list[str]
    notes: list[str]


def to_client(name: str, endpoint_url: str, headers: Mapping[str, str], *, flavour: str) -> str:
    """The JSON text that makes a client talk to the gateway at ``endpoint_url``.

    References ``${NAME}`` in the values of ``headers`` come out in the client's own notation.
    """
    kind = _flavour(flavour)
    return _file({name: client_entry(endpoint_url, headers, kind)}, kind)


def client_entry(endpoint_url: str, headers: Mapping[str, str], flavour: Flavour) -> dict[str, Any]:
    """One entry of a client's file, for an address and the headers to send there; see :func:`to_client`."""
    entry: dict[str, Any] = {} if flavour is Flavour.CURSOR else {"type": "http"}
    entry["url"] = endpoint_url
    if headers:
        entry["headers"] = {
            header: _OURS.sub(lambda found: _reference(found["name"], flavour), value)
            for header, value in headers.items()
        }
    return entry


def section_of(flavour: Flavour) -> str:
    """The member of a client's file that holds its servers."""
    return "servers" if flavour is Flavour.VSCODE else "mcpServers"


def to_mcp_json(tools: Iterable[Tool], flavour: str) -> Exported:
    """The definitions of ``tools`` in a client's format, secrets replaced by references (see above).

    Descriptions, timeouts, bounds and the rules of routing have no place in these formats and stay behind.
    """
    export = _Export(flavour=_flavour(flavour))
    entries = {str(tool.id): entry for tool in tools if (entry := export.entry(tool)) is not None}
    return Exported(
        text=_file(entries, export.flavour), variables=list(export.variables), notes=list(export.notes)
    )


def _flavour(name: str) -> Flavour:
    try:
        return Flavour(name)
    except ValueError:
        known = ", ".join(Flavour)
        raise ConfigurationError(f"unknown client {shown(name)!r}; known are {known}") from None


def _reference(name: str, flavour: Flavour) -> str:
    return f"${{{name}}}" if flavour is Flavour.CLAUDE else f"${{env:{name}}}"


def _file(entries: Mapping[str, Any], flavour: Flavour) -> str:
    return orjson.dumps({section_of(flavour): entries}, option=orjson.OPT_INDENT_2).decode() + "\n"


@dataclass(slots=True, kw_only=True)
class _Export:
    """The state of one export. ``variables`` holds what each reference stands for."""

    flavour: Flavour
    variables: dict[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def entry(self, tool: Tool) -> dict[str, Any] | None:
        if not tool.enabled and self.flavour is Flavour.VSCODE:
            self._note(tool, "left out, since it is disabled and VS Code's format cannot say so")
            return None
        transport = tool.transport
        if isinstance(transport, CustomTransport):
            self._note(tool, "left out, since no client knows its transport")
            return None
        entry = (
            self._http(tool, transport)
            if isinstance(transport, HttpTransport)
            else self._stdio(tool, transport)
        )
        return entry if tool.enabled else entry | {"disabled": True}

    def _http(self, tool: Tool, transport: HttpTransport) -> dict[str, Any]:
        entry: dict[str, Any] = {} if self.flavour is Flavour.CURSOR else {"type": "http"}
        entry["url"] = self._url(tool, transport.url)
        if transport.headers:
            entry["headers"] = {
                name: self._value(tool, name, value, environment_name(tool.id, name))
                for name, value in transport.headers.items()
            }
        return entry

    def _stdio(self, tool: Tool, transport: StdioTransport) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "stdio"} if self.flavour is Flavour.VSCODE else {}
        entry |= {"command": self._plain(tool, transport.command), "args": self._args(tool, transport.args)}
        if transport.env:
            entry["env"] = {
                name: self._value(tool, name, value, _variable(tool, name))
                for name, value in transport.env.items()
            }
        if transport.cwd is not None:
            entry["cwd"] = self._plain(tool, transport.cwd)
        return entry

    def _value(self, tool: Tool, name: str, value: str, variable: str) -> str:
        """``value``, or a reference to ``variable`` in its place."""
        if not value or not (means_secret(name) or TOKEN_SHAPES.search(value)):
            return self._without_password(tool, value, environment_name(variable, "password"))
        scheme = _SCHEME.fullmatch(value)
        if scheme:
            return f"{scheme['scheme']} {self._refer(variable, scheme['rest'])}"
        return self._refer(variable, value)

    def _without_password(self, tool: Tool, value: str, variable: str) -> str:
        return _PASSWORD_IN_URL.sub(
            lambda found: found["front"] + self._refer(variable, found["password"]), self._plain(tool, value)
        )

    def _args(self, tool: Tool, args: Sequence[str]) -> list[str]:
        out: list[str] = []
        option = ""
        for arg in args:
            name, equals, value = arg.partition("=")
            if arg.startswith("-") and equals:
                out.append(f"{name}={self._argument(tool, name, value)}")
                option = ""
            else:
                out.append(self._argument(tool, option, arg))
                option = arg if arg.startswith("-") else ""
        return out

    def _argument(self, tool: Tool, option: str, value: str) -> str:
        return self._value(tool, option, value, environment_name(tool.id, option or "argument"))

    def _url(self, tool: Tool, url: str) -> str:
        front, mark, query = url.partition("#")[0].partition("?")
        front = self._without_password(tool, front, environment_name(tool.id, "password"))
        return front + mark + "&".join(self._parameter(tool, pair) for pair in query.split("&"))

    def _parameter(self, tool: Tool, pair: str) -> str:
        name, equals, value = pair.partition("=")
        return f"{name}{equals}{self._value(tool, unquote(name), value, environment_name(tool.id, name))}"

    def _plain(self, tool: Tool, value: str) -> str:
        if "${" in value:
            self._note(tool, "a value holds '${', which the client will try to replace")
        return value

    def _refer(self, name: str, value: str) -> str:
        """A reference to ``name``, or to ``name_2`` and so on if that stands for another value already."""
        unique, number = name, 1
        while self.variables.setdefault(unique, value) != value:
            number += 1
            unique = f"{name}_{number}"
        return _reference(unique, self.flavour)

    def _note(self, tool: Tool, text: str) -> None:
        self.notes[f"{shown(tool.id)}: {text}"] = None


def _variable(tool: Tool, name: str) -> str:
    return name if _VARIABLE.fullmatch(name) else environment_name(tool.id, name)
