"""Read the configuration: the file, over it the environment, over both the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from common.domain.errors import ConfigurationError
from common.settings.admin import AdminToken
from common.settings.audit import AuditSink
from common.settings.client_credentials import ClientCredentialsEntry
from common.settings.credentials import StaticCredential
from common.settings.document import Document, KeyPath, parse
from common.settings.encryption import EncryptionKey
from common.settings.identity import ApiKey
from common.settings.interpolate import interpolate
from common.settings.layers import CONFIG_VARIABLE, KEYS, Layer, from_command_line, from_environment
from common.settings.model import SECTIONS, RuntimeSettings, Settings
from common.settings.mtls import MtlsSettings
from common.settings.oauth import OAuthSettings
from common.settings.policy import EvaluatorSettings, RuleSettings
from common.settings.problems import Problem, dotted, explain, locate, nearest, refusal, shown
from common.settings.section import Section
from common.settings.sources import SourceSettings
from common.settings.tenants import TenantSettings
from common.settings.token_exchange import TokenExchangeEntry
from common.settings.tokens import JwtSettings
from common.settings.tool_credentials import with_providers
from common.settings.tools import read_entry, read_tool, read_tools

DEFAULT_FILE = "canalgate.yaml"

_CROSS_CHECKED = ("web", "host")
_CROSS_READ = (
    *(_CROSS_CHECKED, ("web", "trusted_proxies"), ("identity", "resolver")),
    *(("identity", "jwt"), ("identity", "mtls"), ("identity", "oauth")),
)
"""The setting that the one rule across sections is about, and all that it reads."""

_CLIENTS_KEYS = frozenset({"mcpServers", "mcp_servers", "mcpservers", "servers", "mcp"})
"""What MCP clients call, in their files, what is ``tools`` here."""

_ITEMS: Mapping[tuple[str | int, ...], type[Section]] = {
    ("redis", "encryption_keys"): EncryptionKey,
    ("identity", "api_keys"): ApiKey,
    ("admin", "tokens"): AdminToken,
    ("audit", "sinks"): AuditSink,
    ("sources", "listed"): SourceSettings,
    ("identity", "jwt"): JwtSettings,
    ("identity", "mtls"): MtlsSettings,
    ("identity", "oauth"): OAuthSettings,
    ("tenants", "listed"): TenantSettings,
    ("credentials", "static"): StaticCredential,
    ("client_credentials", "clients"): ClientCredentialsEntry,
    ("token_exchange", "exchanges"): TokenExchangeEntry,
    ("policy", "rules"): RuleSettings,
    ("policy", "tools"): RuleSettings,
    ("policy", "evaluators"): EvaluatorSettings,
}


def load(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The effective settings.

    ``path`` defaults to what ``CANALGATE_CONFIG`` names, else to ``canalgate.yaml`` in the working directory
    if there is one. ``environ`` defaults to the process environment. ``overrides`` maps dotted keys
    (``web.port``) to values; a value of None counts as not given.

    Raises one :class:`ConfigurationError` that lists everything that is wrong. Tools are the exception: a bad
    tool is left out and told in ``tool_problems``.
    """
    environ = os.environ if environ is None else environ
    file = find_file(path, environ)
    if file is None:
        return assemble(Document(tree={}, lines={}), environ, overrides=overrides, name="no file")
    return assemble(read_file(file), environ, overrides=overrides, name=shown(file))


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file that :func:`load` reads; None if there is none."""
    if path is not None:
        return path
    named = environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def read_file(path: Path) -> Document:
    """The file as data with line numbers; :class:`ConfigurationError` if it cannot be read."""
    name = shown(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name}: not UTF-8 text; save the file as UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigurationError(f"{name}: the configuration file cannot be read: {reason}") from None
    return parse(text, name=name)


def assemble(
    document: Document, environ: Mapping[str, str], *, overrides: Mapping[str, Any] | None = None, name: str
) -> Settings:
    """Settings from a document that was read already; errors as for :func:`load`."""
    assembly = _Assembly(name=name, lines=document.lines)
    tree = assembly.expanded(document.tree, environ)
    tools = assembly.tools_of(tree)
    sections = assembly.sections_of(tree)
    assembly.lay(sections, from_environment(environ))
    assembly.lay(sections, from_command_line(overrides or {}))
    settings = assembly.validated(sections)
    if settings is None or assembly.problems:
        assembly.report_tools(tools, None if settings is None else settings.runtime)
        raise refusal(assembly.problems)
    found, problems = read_tools(tools, settings.runtime, where=assembly.place)
    found, unknown = with_providers(found, settings.credentials.providers, where=assembly.place)
    return settings.model_copy(update={"tools": found, "tool_problems": (*problems, *unknown)})


@dataclass(slots=True, kw_only=True)
class _Assembly:
    """What is gathered on the way from a document to settings."""

    name: str
    lines: Mapping[KeyPath, int]
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    unset: set[KeyPath] = field(default_factory=set)
    """Where a reference stands for nothing: what is wrong with such a value is told once."""
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: tuple[str | int, ...]) -> str:
        """Where the value at ``path`` was given."""
        for place, origin in self.origins.items():
            if path[:2] == place:
                return origin
        line = locate(self.lines, path)
        return self.name if line is None else f"{self.name}:{line}"

    def report(self, path: tuple[str | int, ...], text: str) -> None:
        self.problems.append(Problem(where=self.place(path), text=text))

    def expanded(self, tree: Any, environ: Mapping[str, str]) -> dict[str, Any]:
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            self.report((), f"must be a mapping with the sections {', '.join([*SECTIONS, 'tools'])}")
            return {}
        result = interpolate(tree, environ)
        for fault in result.faults:
            self.unset.add(fault.path)
            self.report(fault.path, f"{dotted(fault.path)}: {fault.message}")
        return result.tree if isinstance(result.tree, dict) else {}

    def tools_of(self, tree: dict[str, Any]) -> Mapping[str, Any]:
        tools = tree.get("tools")
        if tools is None:
            return {}
        if not isinstance(tools, dict):
            if ("tools",) not in self.unset:
                self.report(("tools",), "tools must be a mapping of names to tools")
            return {}
        return tools

    def sections_of(self, tree: dict[str, Any]) -> dict[str, Any]:
        """The sections that were given; an empty one (``web:`` and nothing) counts as not given."""
        for key in tree:
            if key not in SECTIONS and key != "tools":
                self.report((key,), f"unknown key '{shown(key)}'{_home_of(str(key))}")
        return {name: tree[name] for name in SECTIONS if tree.get(name) is not None}

    def lay(self, sections: dict[str, Any], layer: Layer) -> None:
        """Put ``layer`` over the sections."""
        self.problems.extend(layer.problems)
        for (section, key), value in layer.values.items():
            below = sections.setdefault(section, {})
            if isinstance(below, dict):
                sections[section] = {**below, key: value}
                self.origins[section, key] = layer.origins[section, key]

    def validated(self, sections: dict[str, Any]) -> Settings | None:
        try:
            return Settings.model_validate(sections)
        except ValidationError as error:
            faults = error.errors()
            for found in faults:
                if found["loc"] and found["loc"] not in self.unset:
                    self.report(found["loc"], _sentence(found))
            self._cross_check(sections, {found["loc"][:2] for found in faults if found["loc"]})
            return None

    def _cross_check(self, sections: dict[str, Any], faulty: set[KeyPath]) -> None:
        """Ask the rule across sections, which the validator leaves out as long as one of them is at fault."""
        given: dict[str, Any] = {}
        for section, key in _CROSS_READ:
            values = sections.get(section, {})
            if not isinstance(values, dict) or (section, key) in faulty | self.unset:
                return
            given.setdefault(section, {})
            if key in values:
                given[section][key] = values[key]
        try:
            Settings.model_validate(given)
        except ValidationError as error:
            for found in error.errors():
                if not found["loc"]:
                    self.report(_CROSS_CHECKED, _sentence(found))

    def report_tools(self, tools: Mapping[str, Any], runtime: RuntimeSettings | None) -> None:
        """What is wrong with tools, beside what keeps the gateway from starting.

        ``runtime`` is None if that section may be at fault: then nobody asks whether a tool goes together with it.
        """
        for name, entry in tools.items():
            read = read_entry(str(name), entry) if runtime is None else read_tool(str(name), entry, runtime)
            if isinstance(read, list):
                for path, text in read:
                    if path not in self.unset:
                        self.report(path, text)


def _sentence(error: ErrorDetails) -> str:
    path = error["loc"]
    if error["type"] == "extra_forbidden":
        model = _ITEMS.get(path[:2]) or SECTIONS[str(path[0])]
        elsewhere = _homes(str(path[-1])) if path[-1] not in model.model_fields else ()
        return f"unknown key '{shown(path[-1])}' in {dotted(path[:-1])}" + (
            f"; did you mean '{elsewhere[0]}'?" if elsewhere else nearest(str(path[-1]), model.model_fields)
        )
    text = explain(error)
    if error["type"] == "value_error" and len(path) < 2:
        return f"{dotted(path)}: {text}" if path else text
    return f"{dotted(path)} {text}"


def _homes(key: str) -> tuple[str, ...]:
    """Dotted settings whose last part is exactly ``key``."""
    return tuple(dotted_key for dotted_key, (_, name) in KEYS.items() if name == key)


def _home_of(key: str) -> str:
    if key in _CLIENTS_KEYS:
        return (
            "; servers stand under 'tools' here, in the same shape: rename the key, or have a client's file "
            "translated by `canalgate import FILE --into canalgate.yaml`"
        )
    homes = _homes(key)
    return f"; did you mean '{homes[0]}'?" if homes else nearest(key, [*SECTIONS, "tools"])
