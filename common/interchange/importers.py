"""The files of MCP clients, read as entries of our ``tools``.

Known: ``mcpServers`` (Claude Desktop, Claude Code's .mcp.json and ~/.claude.json, Cursor, and the many
clients that copied the format) and ``servers`` with ``inputs`` (VS Code's mcp.json, also under ``mcp`` in
settings.json). What has no place in our file becomes a note; nothing is dropped without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from common.domain.errors import ConfigurationError
from common.interchange import jsonc
from common.interchange.variables import Rewriter
from common.settings import document
from common.settings.problems import shown

SOURCES = ("auto", "claude", "cursor", "vscode")

_HTTP = frozenset({"http", "streamable-http", "streamablehttp", "streamable_http"})
_STDIO_KEYS = ("command", "args", "env", "cwd")
_HTTP_KEYS = ("url", "headers")
_SWITCHES = ("enabled", "disabled")
_OTHER_KEYS = frozenset({"type", "description", *_SWITCHES, *_STDIO_KEYS, *_HTTP_KEYS})
_OUTSIDE = "the gateway has no such setting"
_ADVICE: Mapping[str, str] = {
    "envFile": "copy its variables into env, or set them where the gateway runs",
    "env_file": "copy its variables into env, or set them where the gateway runs",
    "timeout": "clients disagree on its unit; set request_timeout in seconds",
    "auth": "the gateway does not sign in by OAuth; put a token into headers",
    "oauth": "the gateway does not sign in by OAuth; put a token into headers",
    "headersHelper": "put the headers themselves into headers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What a file held.

    ``entries`` are entries of ``tools`` by name, references in our notation and not resolved. ``notes`` say
    what was changed or left out. ``inputs`` are environment variables to set, which stand for what the client
    asked its user for or knew by itself.
    """

    entries: dict[str, dict[str, Any]]
    notes: list[str]
    inputs: list[str]


def parse(text: str, *, source: str = "auto") -> ImportResult:
    """Read a client's file; ``source`` is one of :data:`SOURCES`.

    Raises :class:`ConfigurationError` if the text is not of that format.
    """
    if source not in SOURCES:
        raise ConfigurationError(f"unknown source {shown(source)!r}; known are {', '.join(SOURCES)}")
    try:
        tree = jsonc.loads(text)
    except ConfigurationError:
        note = _docker_catalogue(text)
        if note is None:
            raise
        return ImportResult(entries={}, notes=[note], inputs=[])
    if not isinstance(tree, dict):
        raise ConfigurationError("the file must hold a JSON object with mcpServers or servers")
    return _Reading().read(tree, source)


def _docker_catalogue(text: str) -> str | None:
    """A note if the text is a Docker MCP catalogue or profile, which are YAML."""
    try:
        tree = document.parse(text, name="catalogue").tree
    except ConfigurationError:
        return None
    if not isinstance(tree, dict) or not ("registry" in tree or isinstance(tree.get("servers"), list)):
        return None
    return "this is a Docker MCP catalogue or profile, which cannot be imported; add its servers by hand"


def _blocks(tree: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    """Each place in the file that may hold servers, with its name."""
    servers = [("servers", tree.get("servers"))]
    nested = tree.get("mcp")
    if isinstance(nested, dict):
        servers += [("mcp.servers", nested.get("servers")), ("mcp.mcpServers", nested.get("mcpServers"))]
    common = [("mcpServers", tree.get("mcpServers"))]
    projects = tree.get("projects")
    if isinstance(projects, dict):
        common += [
            (f"projects.{shown(path)}.mcpServers", project.get("mcpServers"))
            for path, project in projects.items()
            if isinstance(project, dict)
        ]
    order = servers + common if source == "vscode" else common + servers if source == "auto" else common
    return (block for block in order if block[1] is not None)


@dataclass(slots=True)
class _Reading:
    """The state of one import."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    rewriter: Rewriter = field(default_factory=Rewriter)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def read(self, tree: Mapping[str, Any], source: str) -> ImportResult:
        blocks = list(_blocks(tree, source))
        if not blocks:
            wanted = "servers or mcpServers" if source in ("auto", "vscode") else "mcpServers"
            raise ConfigurationError(f"the file has no {wanted}: is it the configuration of an MCP client?")
        self._inputs(tree)
        for place, servers in blocks:
            if not isinstance(servers, dict):
                raise ConfigurationError(f"{place} must map names to servers")
            for name, server in servers.items():
                self._server(place, name, server)
        notes = [*self.notes, *self.rewriter.notes]
        return ImportResult(entries=self.entries, notes=notes, inputs=list(self.rewriter.variables))

    def _inputs(self, tree: Mapping[str, Any]) -> None:
        """Defaults of the file's inputs; those of passwords are not carried over."""
        nested = tree.get("mcp")
        found = tree.get("inputs", nested.get("inputs") if isinstance(nested, dict) else None)
        inputs = [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
        self.rewriter.defaults = {
            item["id"]: item["default"]
            for item in inputs
            if isinstance(item.get("id"), str)
            and isinstance(item.get("default"), str)
            and not item.get("password")
        }

    def _server(self, place: str, name: str, server: Any) -> None:
        label = shown(name)
        if not isinstance(server, dict):
            self.note(f"{label}: left out, since it is not a mapping")
        elif not name:
            self.note("a server without a name was left out")
        elif name in self.entries:
            self.note(f"{label}: the one under {place} was left out, since an earlier one has the same name")
        else:
            entry = self._entry(label, server)
            if entry is not None:
                self.entries[name] = entry

    def _entry(self, label: str, server: Mapping[str, Any]) -> dict[str, Any] | None:
        kind = server.get("type", server.get("transport"))
        url = server.get("url", server.get("serverUrl", server.get("httpUrl")))
        command = server.get("command")
        fault = _fault(kind, command, url)
        if fault is not None:
            self.note(f"{label}: left out, {fault}")
            return None
        entry = self._http(label, server, url) if command is None else self._stdio(label, server)
        if entry is None:
            return None
        if isinstance(server.get("description"), str):
            entry["description"] = self.rewriter.rewrite(server["description"])
        if server.get("disabled") is True or server.get("enabled") is False:
            entry["enabled"] = False
        self._leftovers(label, server, entry)
        return entry

    def _stdio(self, label: str, server: Mapping[str, Any]) -> dict[str, Any] | None:
        args = server.get("args", [])
        if not isinstance(args, list) or not all(_is_scalar(item) for item in args):
            self.note(f"{label}: left out, since its args are not a list of text")
            return None
        entry: dict[str, Any] = {"command": self.rewriter.rewrite(server["command"])}
        if args:
            entry["args"] = [self.rewriter.rewrite(_text(item)) for item in args]
        env = self._texts(label, server, "env")
        if env:
            entry["env"] = env
        if isinstance(server.get("cwd"), str):
            entry["cwd"] = self.rewriter.rewrite(server["cwd"])
        return entry

    def _http(self, label: str, server: Mapping[str, Any], url: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"url": self.rewriter.rewrite(url)}
        headers = self._texts(label, server, "headers")
        if headers:
            entry["headers"] = headers
        return entry

    def _texts(self, label: str, server: Mapping[str, Any], key: str) -> dict[str, str]:
        values = server.get(key)
        if values is None:
            return {}
        if not isinstance(values, dict):
            self.note(f"{label}: its {key} was left out, since it is not a mapping")
            return {}
        for name, value in values.items():
            if not _is_scalar(value):
                self.note(f"{label}: {key}.{shown(name)} was left out, since its value is not text")
        return {
            name: self.rewriter.rewrite(_text(value)) for name, value in values.items() if _is_scalar(value)
        }

    def _leftovers(self, label: str, server: Mapping[str, Any], entry: Mapping[str, Any]) -> None:
        """A note for every key that was given and has no part in the entry."""
        used = {"type", "transport", *_SWITCHES, *entry}
        used |= {"serverUrl", "httpUrl"} if "url" in entry and "url" not in server else set()
        for key, value in server.items():
            if key not in used and value not in (None, [], {}, ""):
                reason = "it does not go with this kind of server" if key in _OTHER_KEYS else _OUTSIDE
                self.note(f"{label}: '{shown(key)}' was left out; {_ADVICE.get(key, reason)}")


def _fault(kind: Any, command: Any, url: Any) -> str | None:
    """Why a server is not of a supported kind."""
    word = kind.lower() if isinstance(kind, str) else None
    if word == "sse" or (word is None and isinstance(url, str) and url.rstrip("/").endswith("/sse")):
        return "since it speaks HTTP+SSE, which is not supported; give its Streamable HTTP endpoint"
    if kind is not None and word not in {"stdio", *_HTTP}:
        return "since its type is not supported (stdio and http are)"
    if isinstance(command, str) and command.strip() and url is None and word not in _HTTP:
        return None
    if isinstance(url, str) and url.strip() and command is None and word != "stdio":
        return None
    return "since it needs either a command (stdio) or a url (http), as text and fitting its type"


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _text(value: str | float | bool) -> str:  # noqa: FBT001 (a JSON scalar)
    """A JSON scalar as it would be written in an environment variable."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
