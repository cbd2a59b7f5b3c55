"""Every setting as Markdown tables, made from the models: ``python -m common.settings.reference``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo

from common.settings.admin import AdminToken
from common.settings.audit import AuditSink
from common.settings.audit_sinks import FileOptions, MemoryOptions, PostgresOptions, WebhookOptions
from common.settings.changes import applies
from common.settings.client_credentials import ClientCredentialsEntry
from common.settings.credentials import StaticCredential
from common.settings.encryption import EncryptionKey
from common.settings.entry import CustomEntry, HttpEntry, StdioEntry, ToolEntry
from common.settings.fields import Unit
from common.settings.identity import ApiKey
from common.settings.kubernetes import KubernetesSettings
from common.settings.layers import PROCESS_VARIABLES, variable_of
from common.settings.model import SECTIONS
from common.settings.mtls import MtlsSettings
from common.settings.oauth import OAuthSettings
from common.settings.policy import EvaluatorSettings, RuleSettings
from common.settings.section import Section
from common.settings.sources import SourceSettings
from common.settings.tenants import CapabilityLimit, TenantSettings
from common.settings.token_exchange import TokenExchangeEntry
from common.settings.tokens import JwtSettings
from common.settings.tool_credentials import CredentialInjection, ToolCredentials

_KINDS: Mapping[str, str] = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "string": "text",
    "array": "list",
    "object": "mapping",
}
_BOUNDS: Mapping[str, str] = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}

PARTS: Mapping[str, type[Section]] = {
    "identity.jwt": JwtSettings,
    "identity.mtls": MtlsSettings,
    "identity.oauth": OAuthSettings,
}
"""Settings that are mappings, and what may stand in them."""


def render() -> str:
    """All tables: the sections, the entries of ``tools``, and the variables that are no settings."""
    parts = [_section(name, model) for name, model in SECTIONS.items()]
    parts += [
        _entries("One entry of redis.encryption_keys", EncryptionKey, EncryptionKey.model_fields),
        _entries("One entry of identity.api_keys", ApiKey, ApiKey.model_fields),
        _entries("One entry of admin.tokens", AdminToken, AdminToken.model_fields),
        *(_entries(name, model, model.model_fields) for name, model in PARTS.items()),
        _entries("One entry of tenants.listed", TenantSettings, TenantSettings.model_fields),
        _entries("One entry of capabilities", CapabilityLimit, CapabilityLimit.model_fields),
        _entries("One entry of audit.sinks", AuditSink, AuditSink.model_fields),
        _entries("One entry of sources.listed", SourceSettings, SourceSettings.model_fields),
        _entries("kubernetes of a source", KubernetesSettings, KubernetesSettings.model_fields),
        _entries("Options of a file sink", FileOptions, FileOptions.model_fields),
        _entries("Options of a memory sink", MemoryOptions, MemoryOptions.model_fields),
        _entries("Options of a webhook sink", WebhookOptions, WebhookOptions.model_fields),
        _entries("Options of a postgres sink", PostgresOptions, PostgresOptions.model_fields),
        _entries("One entry of credentials.static", StaticCredential, StaticCredential.model_fields),
        _entries(
            "One entry of client_credentials.clients",
            ClientCredentialsEntry,
            ClientCredentialsEntry.model_fields,
        ),
        _entries(
            "One entry of token_exchange.exchanges", TokenExchangeEntry, TokenExchangeEntry.model_fields
        ),
        _entries("One rule of policy.rules or policy.tools", RuleSettings, RuleSettings.model_fields),
        _entries("One entry of policy.evaluators", EvaluatorSettings, EvaluatorSettings.model_fields),
        _entries("Any tool", ToolEntry, ToolEntry.model_fields),
        _entries("A stdio tool", StdioEntry, _own(StdioEntry)),
        _entries("An HTTP tool", HttpEntry, _own(HttpEntry)),
        _entries("A tool by a transport of your own", CustomEntry, _own(CustomEntry)),
        _entries("credentials of a tool", ToolCredentials, ToolCredentials.model_fields),
        _entries("inject of these", CredentialInjection, CredentialInjection.model_fields),
        _process_variables(),
    ]
    return "\n\n".join(parts) + "\n"


def _own(model: type[ToolEntry]) -> dict[str, FieldInfo]:
    return {name: field for name, field in model.model_fields.items() if name not in ToolEntry.model_fields}


def _section(name: str, model: type[Section]) -> str:
    schemas = model.model_json_schema()["properties"]
    rows = [
        [
            f"`{name}.{key}`",
            *_cells(schemas[key], field),
            f"`{variable_of(name, key)}`",
            applies(name, key).value,
            field.description or "",
        ]
        for key, field in model.model_fields.items()
    ]
    table = _table(["Key", "Type", "Unit", "Default", "Environment", "Applies", "Meaning"], rows)
    return f"### {name}\n\n{model.__doc__}\n\n{table}"


def _entries(title: str, model: type[Section], fields: Mapping[str, FieldInfo]) -> str:
    schemas = model.model_json_schema()["properties"]
    rows = [
        [f"`{key}`", *_cells(schemas[key], field), field.description or ""] for key, field in fields.items()
    ]
    return f"### {title}\n\n{model.__doc__}\n\n" + _table(["Key", "Type", "Unit", "Default", "Meaning"], rows)


def _process_variables() -> str:
    rows = [[f"`{name}`", meaning] for name, meaning in PROCESS_VARIABLES.items()]
    return "### Variables that are no settings\n\n" + _table(["Environment", "Meaning"], rows)


def _cells(schema: Mapping[str, Any], field: FieldInfo) -> list[str]:
    return [kind_of(schema), unit_of(field), _default(field)]


def kind_of(schema: Mapping[str, Any]) -> str:
    alternatives = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    core: Mapping[str, Any] = alternatives[0]
    if "enum" in core:
        return "one of " + ", ".join(f"`{value}`" for value in core["enum"])
    if "const" in core:
        return f"`{core['const']}`"
    if "$ref" in core:
        return "mapping"
    limits = [f"{words} {_figure(core[key])}" for key, words in _BOUNDS.items() if key in core]
    return ", ".join([_KINDS[core["type"]], *limits])


def _figure(value: Any) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def unit_of(field: FieldInfo) -> str:
    found = [*field.metadata, *_nested(field.annotation)]
    return next((item.name for item in found if isinstance(item, Unit)), "")


def _nested(annotation: Any) -> list[Any]:
    """Metadata inside a union, as in ``Seconds | None``."""
    parts = [
        part for member in get_args(annotation) for part in (member, *getattr(member, "__metadata__", ()))
    ]
    return [part for part in parts if isinstance(part, Unit)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    return f"`{_figure(value) if isinstance(value, float) else json.dumps(value)}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(render())
