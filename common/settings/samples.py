"""Examples of values for settings that have no default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.settings.section import Section

BY_KEY: Mapping[str, Any] = {
    "url": "https://server.example.com/path",
    "tls_ca_file": "/etc/canalgate/ca.pem",
    "tls_cert_file": "/etc/canalgate/cert.pem",
    "tls_key_file": "/etc/canalgate/key.pem",
    "tls_client_ca_file": "/etc/canalgate/clients.pem",
    "tls_server_name": "server.internal",
    "ca_file": "/etc/canalgate/ca.pem",
    "tenant": "acme",
    "client": "ide",
    "tool": "a-process",
    "subject": "alice",
    "id": "acme",
    "name": "alice",
    "token": "${TOKEN:-a-token-of-yours}",
    "key": "${KEY:-a-key-of-yours}",
    "secret": "${SECRET:-a-secret-of-at-least-32-characters}",
    "values": {"token": "${TOKEN:-a-token-of-yours}"},
    "tenants": ["acme", "team-*"],
    "clients": ["ide"],
    "subjects": ["alice@*"],
    "scopes": ["tools:*"],
    "tools": ["a-process"],
    "mcp_tools": ["read_*"],
    "resources": ["file:///public/*"],
    "prompts": ["summarise"],
    "documentation": "https://gateway.example.com/docs",
}
SAMPLES: Mapping[str, Any] = {
    "RedisSettings.url": "redis://127.0.0.1:6379/0",
    "EncryptionKey.id": "k1",
    "WorkerSettings.heartbeat_file": "/run/canalgate/%n",
    "IdentitySettings.subject_header": "X-User",
    "IdentitySettings.scopes_header": "X-Scopes",
    "JwtSettings.issuer": "https://login.example.com",
    "JwtSettings.jwks": "https://login.example.com/jwks.json",
    "JwtSettings.tenant_claim": "org",
    "MtlsSettings.tenant_attribute": "O",
    "OAuthSettings.resource": "https://gateway.example.com",
    "OAuthSettings.resource_name": "Tools of Acme",
    "VaultSettings.namespace": "tools",
    "VaultSettings.auth_mount": "kubernetes",
    "VaultSettings.role": "canalgate",
    "VaultSettings.token_file": "/run/vault/token",
    "VaultSettings.secret_id_file": "/run/vault/secret-id",
    "RuleSettings.id": "a-rule",
    "EvaluatorSettings.id": "payments",
    "EvaluatorSettings.expression": "size(arguments.text) < 1000",
    "EvaluatorSettings.policies": "permit(principal, action, resource);",
    "EvaluatorSettings.implementation": "package.module:Class",
    "PolicySettings.evaluator": "payments",
    "AdminToken.token": "${ADMIN_TOKEN:-an-admin-token-of-yours}",
    "MetricsSettings.token": "${METRICS_TOKEN:-a-metrics-token-of-yours}",
    "TelemetrySettings.endpoint": "http://127.0.0.1:4318",
    "TelemetrySettings.headers": "authorization=Bearer ${TOKEN:-a-token-of-yours}",
    "TelemetrySettings.sampling_ratio": 0.1,
    "TelemetrySettings.service_name": "gateway",
    "AuditSettings.chain_key": "${AUDIT_KEY:-change-me}",
    "AuditSettings.spill_dir": "/var/lib/canalgate/spill",
    "AuditSink.type": "file",
    "FileOptions.path": "/var/log/canalgate/audit.jsonl",
    "PostgresOptions.url": "postgresql://canalgate@db.example.com/audit?sslmode=verify-full",
    "StdioEntry.command": "python",
    "StdioEntry.cwd": "/srv",
    "CustomEntry.factory": "package.module:Class",
    "HttpEntry.url": "https://server.example.com/mcp",
}


def sample_of(model: type[Section], key: str, schema: Mapping[str, Any]) -> Any:
    """A value that the setting takes."""
    name = f"{model.__name__}.{key}"
    return SAMPLES[name] if name in SAMPLES else BY_KEY.get(key, _by_kind(schema, key))


def _by_kind(schema: Mapping[str, Any], key: str) -> Any:
    core = next(part for part in schema.get("anyOf", [schema]) if part.get("type") != "null")
    if "enum" in core:
        return core["enum"][0]
    kinds: Mapping[str, Any] = {"integer": 10, "number": 30, "boolean": True, "array": [], "object": {}}
    if (kind := str(core.get("type"))) in kinds:
        return kinds[kind]
    return "https://server.example.com" if key.endswith("_url") else key.replace("_", "-")
