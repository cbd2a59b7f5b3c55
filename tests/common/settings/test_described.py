"""The schema and the document say what the models say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from common.domain.errors import ConfigurationError
from common.settings import EvaluatorSettings, RuleSettings, load
from common.settings.audit_sinks import FileOptions, PostgresOptions, WebhookOptions
from common.settings.entry import ENTRY_KEYS
from common.settings.kubernetes import KubernetesSettings
from common.settings.layers import KEYS, PROCESS_VARIABLES, VARIABLES
from common.settings.reference import PARTS, render
from common.settings.schema import json_schema, text
from common.settings.sources import SourceSettings
from common.settings.tenants import CapabilityLimit, TenantSettings
from common.settings.token_exchange import TokenExchangeEntry

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "docs" / "canalgate.schema.json"

EXAMPLE = """
redis: {url: "redis://127.0.0.1:6379/0"}
web: {host: 127.0.0.1, port: "${PORT:-8080}", processes: 1, allowed_hosts: [gate.example], allowed_origins: "https://a.example"}
worker: {concurrency: 1000, processes: 1, max_sessions: 9, events: "${EVENTS:-true}"}
identity:
  resolver: [api_key, "${RESOLVER:-jwt}"]
  api_keys: [{key: k, tenant: t, client: c, scopes: [a]}]
  jwt: {issuer: "https://i.example", jwks: /keys.json, tenant_claim: org, leeway: "${LEEWAY:-5}"}
  oauth: {resource: "https://g.example", authorization_servers: "https://i.example"}
  mtls: {tenant: t, form: dn}
  required_scopes: a, b
tenants: {allow_unlisted: true, max_sessions: "${MOST:-9}", listed: [a, {id: b, max_sessions: 5}]}
policy:
  rules: [{effect: deny, tenants: [a, "b*"], mcp_tools: "x, y"}, {id: r, effect: allow}]
  tools: {pool: [{effect: allow, resources: ["note://*"], prompts: [p]}]}
  evaluators: [{id: e, type: cel, expression: "true"}, {id: c, type: custom, implementation: "a:B", options: {k: 1}}]
  evaluator: e
  tenants: {b: c}
runtime:
logging: {level: "${LEVEL:-info}", format: json, levels: {a.b: debug}}
telemetry: {exporter: otlp_http, endpoint: "http://c:4318", headers: "a=b", sampling_ratio: "${R:-0.1}"}
credentials: {providers: [static, vault], timeout: "${T:-5}", static: [{tool: t, tenant: u, values: {key: k}}]}
client_credentials: {leeway: "${L:-9}", clients: [{tool: t, tenant: u, token_url: "https://as.example/token",
  auth: private_key_jwt,  client_id: c, private_key_file: /k, algorithm: ES256, scopes: "a, b", resources: "https://api.example"}]}
token_exchange: {issuer: "https://g.example", signing_key_file: /k, signing_algorithm: ES256, actor: g,
  leeway: "${L:-9}", exchanges: [{tool: t, token_url: "https://as.example/token", client_id: c,
    client_secret: s, subject_audience: a}]}
aws: {region: eu-central-1, endpoint_url: "https://a.example", version_stage: "${S:-x}",
  access_key_id: k, secret_access_key: s}
gcp: {project: my-project, endpoint_url: "https://g.example", anonymous: "${A:-true}", version: "3"}
vault: {url: "https://vault.example:8200", auth: approle, role_id: r, secret_id: s}
tools:
  everything: {command: npx, args: [-p, 8080], env: {K: V, PORT: 80, DEBUG: yes}, cwd: /dir, idle_timeout: 60}
  remote: {url: "http://127.0.0.1:9000/mcp", type: http, headers: {X-K: V}, enabled: false}
  secret: {command: x, credentials: {mode: optional, scope: client, providers: vault, inject: {env: {TOKEN: key}}}}
  pool: {url: "http://h", routing: "${ROUTING:-least_loaded}", pool_size: 2, retry: safe, health_interval: 0}
  bound: {command: x, affinity: mcp_session, max_sessions: 1, max_session_age: 1.5, limit_memory_bytes: "${M:-99}"}
"""
REFUSED = [
    "wbe: {}",
    "web: {prot: 1}",
    "web: {port: 65536}",
    "web: {port: text}",
    "runtime: {request_timeout: 0}",
    "logging: {level: inof}",
    "logging: {levels: {a: loud}}",
    "telemetry: {exporter: otlp}",
    "telemetry: {sampling_ratio: 2}",
    "identity: {api_keys: [{key: k, tenant: t}]}",
    "identity: {jwt: {issuer: i}}",
    "identity: {mtls: {tenant: t, from: dn}}",
    "identity: {oauth: {resource: 5}}",
    "tenants: {listed: [5]}",
    "policy: {rules: [{tenants: [a]}]}",
    "policy: {rules: [{effect: forbid}]}",
    "policy: {tools: {a: [{effect: deny, tool: b}]}}",
    "policy: {evaluators: [{id: a, type: lua}]}",
    "tools: {a: {}}",
    "tools: {a: {command: x, url: 'http://h'}}",
    "tools: {a: {url: 'http://h', type: sse}}",
    "tools: {a: {command: x, comand: y}}",
    "tools: {a: {command: x, routing: random}}",
    "tools: {a: {command: x, max_sessions: 0}}",
    "tools: {a: {url: 'http://h', limit_open_files: 5}}",
    "tenants: {listed: [{id: a, max_sessions: 0}]}",
    "tools: {'': {command: x}}",
    "credentials: {provider: [static]}",
    "credentials: {static: [{tool: t, values: {a: b}, token: x}]}",
    "vault: {auth: ldap}",
    "tools: {a: {command: x, credentials: {}}}",
    "tools: {a: {command: x, credentials: {inject: {env: {T: k}}, mode: maybe}}}",
    "tools: {a: {command: x, credentials: {inject: {environment: {T: k}}}}}",
]


PARTS_NAMES = {"key", "tenant", "client", "subject", "scopes", "id"}.union(
    *(model.model_fields for model in PARTS.values())
)
"""Rows of what stands within a setting."""


def valid(document: str) -> bool:
    return jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(document))


def test_the_schema_is_a_schema() -> None:
    """Of draft 2020-12, which it names."""
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_committed_schema_is_current() -> None:
    """After a change of the models: ``python -m common.settings.schema``."""
    assert SCHEMA.read_text(encoding="utf-8") == text()


def test_schema_and_program_accept_the_same_example(tmp_path: Path) -> None:
    """What the editor calls good starts."""
    file = tmp_path / "c.yaml"
    file.write_text(EXAMPLE)
    assert valid(EXAMPLE)
    settings = load(file, {})
    assert (settings.tool_problems, len(settings.tools)) == ((), 5)


@pytest.mark.parametrize("document", REFUSED)
def test_schema_and_program_refuse_the_same_mistakes(document: str, tmp_path: Path) -> None:
    """What the editor underlines does not start."""
    file = tmp_path / "c.yaml"
    file.write_text(document)
    assert not valid(document)
    try:
        settings = load(file, {})
    except ConfigurationError:
        return
    assert settings.tool_problems


def test_every_part_of_the_schema_is_closed_and_described() -> None:
    """Editors underline typos and show what a key is for."""
    parts = [json_schema(), *json_schema()["$defs"].values()]
    for part in parts:
        assert part["additionalProperties"] is False
        assert part["title"]
        for name, schema in part["properties"].items():
            assert schema.get("description"), (part["title"], name)


def tables() -> str:
    content = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(r"<!-- begin reference -->\n\n(.*)\n<!-- end reference -->", content, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_document_has_the_tables_of_the_models() -> None:
    """After a change of the models, put ``python -m common.settings.reference`` between the two marks."""
    assert tables() == render()


def test_document_and_models_know_the_same_settings() -> None:
    """Both ways: no setting without a row, no row without a setting."""
    rows = [line for line in tables().splitlines() if line.startswith("| `")]
    names = {re.findall(r"`([^`]+)`", row)[0] for row in rows}
    assert set(KEYS) <= names
    assert set(ENTRY_KEYS) <= names
    assert names - set(KEYS) - set(ENTRY_KEYS) - set(PROCESS_VARIABLES) == {
        *FileOptions.model_fields,
        *(WebhookOptions.model_fields.keys() - ENTRY_KEYS),
        *(PostgresOptions.model_fields.keys() - ENTRY_KEYS),
        *("key", "tenant", "client", "id", "secret"),
        *("role", "token"),
        *(CapabilityLimit.model_fields.keys() | TenantSettings.model_fields.keys()) - set(ENTRY_KEYS),
        *("tool", "values", "mode", "scope", "providers", "inject", "meta", "secrets"),
        *(TokenExchangeEntry.model_fields.keys() - ENTRY_KEYS),
        *PARTS_NAMES,
        *("name", "most"),
        *(SourceSettings.model_fields.keys() | KubernetesSettings.model_fields.keys()) - set(ENTRY_KEYS),
        *(RuleSettings.model_fields.keys() - ENTRY_KEYS),
        *(EvaluatorSettings.model_fields.keys() - ENTRY_KEYS),
    }
    assert set(VARIABLES) <= set(re.findall(r"CANALGATE_[A-Z_]+", "\n".join(rows)))


def test_every_row_has_a_meaning_of_one_sentence() -> None:
    """The last cell says what the setting is for."""
    for row in (line for line in render().splitlines() if line.startswith("| `")):
        assert len(row.rstrip(" |").rpartition(" | ")[2]) > 10, row


def test_the_yaml_in_the_document_is_valid() -> None:
    """Readers copy examples: each starts, and agrees with the schema."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        assert valid(block), block


@pytest.mark.parametrize("module", ["common.settings.schema", "common.settings.reference"])
def test_the_generators_run(module: str, tmp_path: Path) -> None:
    """As documented: the one writes a file, the other prints."""
    target = tmp_path / "schema.json"
    arguments = [str(target)] if module.endswith("schema") else []
    command = [sys.executable, "-W", "error", "-m", module, *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=50
    )
    assert (target.read_text() if arguments else done.stdout) == (text() if arguments else render())
