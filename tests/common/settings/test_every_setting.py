"""Every setting: it can be given in the file, the environment and on the command line, and is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.domain.errors import ConfigurationError
from common.domain.quota import layered
from common.settings import JwtSettings, MtlsSettings, OAuthSettings, Settings, load
from common.settings.layers import KEYS, variable_of

SECONDS = [0, -1, "x", True, None, [], ".inf", 90_000]
SECONDS_OR_ZERO = SECONDS[1:]
COUNT = [0, -1, 1.5, "x", True, None, 10**9]
BOUND = [value for value in COUNT if value is not None]
BYTES = [1023, "x", True, 1.5, 2**31]
FLAG = ["maybe", 3, None, []]
IDS = ["", 5, None, "x" * 513]
ISSUED = {"tool": "x", "token_url": "https://as/token", "client_id": "c", "client_secret": "s"}
HEADER = ["", "a b", "a:b", "a\nb", "ä", 5]

# setting: (value in the file, its text in the environment, what Settings then holds, values that are refused)
CASES: dict[str, tuple[Any, str, Any, list[Any]]] = {
    "redis.url": (
        "rediss://u:p@h:1/2",
        "unix:///s?db=1",
        None,
        ["h:6379", "http://h", "redis://", "redis://h:x", "unix://", "redis://[::1", "REDIS://h", 5],
    ),
    # What they do together is in tests/common/store/test_tls.py.
    "redis.tls_ca_file": ("/a", "/a", None, ["", " ", 5]),
    "redis.tls_cert_file": ("/a", "/a", None, ["", 5]),
    "redis.tls_key_file": ("/a", "/a", None, ["", 5]),
    "redis.tls_min_version": ("1.3", "1.3", None, ["1.1", "1.4", "x", 5]),
    "redis.connect_timeout": (0.5, "0.5", 0.5, SECONDS),
    "redis.socket_timeout": (7, "7", 7.0, SECONDS),
    "redis.key_prefix": ("b.1_x-Y", "b.1_x-Y", "b.1_x-Y", ["", "a:b", "{a}", "a b", "-a", "x" * 65, 5]),
    "redis.encryption_keys": (
        [{"id": "a", "secret": "s" * 32}],
        '[{"id": "a", "secret": "ssssssssssssssssssssssssssssssss"}]',
        None,
        [
            5,
            "k",
            [{"id": "a"}],
            [{"id": "a", "secret": "short"}],
            [{"id": "a b", "secret": "s" * 32}],
            [{"id": "", "secret": "s" * 32}],
            [{"id": "a", "secret": "s" * 32}, {"id": "a", "secret": "t" * 32}],
        ],
    ),
    "redis.accept_plain": (True, "true", True, FLAG),
    "web.host": ("::1", "::1", "::1", ["", "http://h", "h/x", "a b", "u@h", 5, None]),
    "web.port": (0, "0", 0, [-1, 65536, "x", 1.5, True, None]),
    "web.processes": (3, "3", 3, COUNT),
    "web.connections": (9, "9", 9, COUNT),
    "web.allowed_hosts": (
        ["a", "b:80"],
        "a, b:80",
        ("a", "b:80"),
        [["http://a"], [""], [5], 5, ["a b"], "[a", ["*"], ["::1"], ["a:b"]],
    ),
    "web.allowed_origins": (
        ["https://a:1", "http://b"],
        '["https://a:1", "http://b"]',
        ("https://a:1", "http://b"),
        [["*"], ["https://a/"], ["a.example"], ["null"], ["https://u@a"], 5],
    ),
    "web.max_body_bytes": (2048, "2048", 2048, BYTES),
    "web.write_timeout": (2, "2", 2.0, SECONDS),
    "web.read_timeout": (0.5, "0.5", 0.5, SECONDS),
    # What they do together is in tests/e2e/test_tls.py and tests/web/test_listener_tls.py.
    "web.tls_cert_file": ("/a", "/a", "/a", ["", 5]),
    "web.tls_key_file": ("/a", "/a", None, ["", 5]),
    "web.tls_client_ca_file": ("/a", "/a", None, ["", 5]),
    "web.tls_client_auth": ("optional", "Required", None, ["yes", True, 5]),
    "web.tls_min_version": (1.3, "1.3", "1.3", ["1.1", "x", 5]),
    "web.session_idle_timeout": (60, "60", 60.0, SECONDS),
    "web.sse_commit_after": (0, "0", 0.0, SECONDS_OR_ZERO),
    "web.ping_interval": (1.5, "1.5", 1.5, SECONDS),
    "web.stream_max_age": (30, "30", 30.0, SECONDS_OR_ZERO),
    "web.stateless": (True, "true", True, FLAG),
    "web.list_page_size": (500, "500", 500, [-1, 1_000_001, "many"]),
    "worker.processes": (2, "2", 2, COUNT),
    "worker.concurrency": (5, "5", 5, COUNT),
    "worker.max_sessions": (5, "5", 5, COUNT),
    "worker.events": (False, "false", False, FLAG),
    "worker.drain_timeout": (0, "0", 0.0, SECONDS_OR_ZERO),
    "worker.heartbeat_file": ("/run/beat", "/run/%n", None, ["", "beat", "/run/", "/run/a\nb", 5]),
    "web.trusted_proxies": (
        ["10.0.0.0/8", "::1", "unix"],
        "10.0.0.0/8,::1,unix",
        ("10.0.0.0/8", "::1", "unix"),
        [["10.0.0.1/8"], ["proxy.example"], [""], [5], 5, ["10.0.0.0/33"]],
    ),
    "identity.resolver": (
        "a.b:C",
        "a.b:C",
        ("a.b:C",),
        ["", "api-key", "a.b", "a:b:c", ":C", "a b:C", 5, [], ["none", "header"], ["header", "header"]],
    ),
    "identity.subject_header": ("X-Sub", "X-Sub", "X-Sub", HEADER),
    "identity.scopes_header": ("X-Scopes", "X-Scopes", "X-Scopes", HEADER),
    "identity.jwt": (
        {"issuer": "i", "jwks": "/k", "audience": ["a"], "tenant": "t"},
        "{issuer: i, jwks: /k, audience: a, tenant: t}",
        JwtSettings(issuer="i", jwks="/k", audience=("a",), tenant="t"),
        [5, "x", [], {"issuer": "i"}, {"issuer": "i", "jwks": "/k", "audience": [], "tenant": "t"}],
    ),
    "identity.mtls": (
        {"tenant": "t"},
        "{tenant: t}",
        MtlsSettings(tenant="t"),
        [5, "x", [], {}, {"tenant": "t", "form": "der"}, {"tenant": "t", "client_attribute": "a b"}],
    ),
    "identity.oauth": (
        {"resource": "https://g.example", "authorization_servers": ["https://i.example"]},
        '{"resource": "https://g.example", "authorization_servers": "https://i.example"}',
        OAuthSettings(resource="https://g.example", authorization_servers=("https://i.example",)),
        [5, "x", [], {}, {"resource": "g.example"}, {"resource": "https://g.example/#f"}],
    ),
    "identity.required_scopes": (["a", "b"], "a,b", ("a", "b"), [5, ["a b"], ['"'], [""], [5], ["ä"]]),
    "identity.cache_ttl": (0, "0", 0.0, SECONDS_OR_ZERO),
    "identity.recheck_interval": (2, "2", 2.0, SECONDS),
    "identity.resolver_timeout": (2, "2", 2.0, SECONDS),
    "identity.tenant_header": ("X-Org", "X-Org", "X-Org", [*HEADER, "x-client-id"]),
    "identity.client_header": ("X-App", "X-App", "X-App", [*HEADER, "X-TENANT-ID"]),
    "identity.api_keys": (
        [{"key": "k", "tenant": "t", "client": "c"}],
        '[{"key": "k", "tenant": "t", "client": "c"}]',
        None,
        [
            5,
            "k",
            [{"key": "k", "tenant": "t"}],
            [{"key": "", "tenant": "t", "client": "c"}],
            [{"key": "a b", "tenant": "t", "client": "c"}],
            [{"key": "k", "tenant": "t", "client": "c", "extra": 1}],
            [{"key": "k", "tenant": "t", "client": "c"}, {"key": "k", "tenant": "u", "client": "c"}],
        ],
    ),
    "identity.default_tenant": ("acme", "acme", "acme", IDS),
    "identity.default_client": ("cli", "cli", "cli", IDS),
    "admin.enabled": (False, "false", None, FLAG),
    "admin.allow_credentials": (True, "true", True, FLAG),
    "admin.tokens": (
        [{"name": "n", "token": "t" * 16}],
        '[{"name": "n", "token": "tttttttttttttttt"}]',
        None,
        [
            5,
            [{"name": "n", "token": "short"}],
            [{"name": "n", "token": "t" * 16, "role": "root"}],
            [{"name": "n", "token": "t" * 16}, {"name": "n", "token": "u" * 16}],
            [{"name": "n", "token": "t" * 16}, {"name": "m", "token": "t" * 16}],
        ],
    ),
    "tenants.allow_unlisted": (True, "true", True, FLAG),
    "tenants.max_sessions": (5, "5", 5, BOUND),
    "tenants.requests_per_minute": (600, "600", 600, BOUND),
    "tenants.burst": (None, "", None, [*BOUND, 5]),
    "tenants.max_calls": (5, "5", 5, BOUND),
    "tenants.client_requests_per_minute": (60, "60", 60, BOUND),
    "tenants.client_burst": (None, "", None, [*BOUND, 5]),
    "tenants.client_max_calls": (5, "5", 5, BOUND),
    "tenants.max_mcp_sessions": (5, "5", 5, BOUND),
    "tenants.capabilities": (
        [{"tool": "git", "name": "push_*", "requests_per_minute": 6, "burst": 2}],
        '[{"tool": "git", "name": "push_*", "requests_per_minute": 6, "burst": 2}]',
        None,
        [
            5,
            ["git"],
            [{"tool": "git"}],
            [{"tool": "", "requests_per_minute": 1}],
            [{"tool": "git", "requests_per_minute": 0}],
            [{"tool": "git", "requests_per_minute": 5, "burst": 6}],
            [{"tool": "git", "requests_per_minute": 5, "extra": 1}],
            [{"tool": "git", "requests_per_minute": 5}, {"tool": "git", "requests_per_minute": 6}],
        ],
    ),
    "tenants.listed": (
        ["a", {"id": "b"}],
        "a,b",
        None,
        [
            *(5, [5], [""], ["a", "a"], [{"id": "a", "x": 1}], [{}]),
            *([{"id": "a", name: 0}] for name in ("max_sessions", "max_calls", "requests_per_minute")),
            [{"id": "a", "burst": 5}],
            [{"id": "a", "requests_per_minute": 5, "burst": 6}],
            [{"id": "a", "enabled": "perhaps"}],
        ],
    ),
    "egress.allowed_networks": (
        ["10.0.0.0/8", "fd12::1"],
        "10.0.0.0/8, fd12::1",
        ("10.0.0.0/8", "fd12::1/128"),
        [5, ["10.0.0.1/8"], ["10/8"], ["example.com"], [""], ["::1%eth0"]],
    ),
    "egress.denied_networks": (["::/0"], "::/0", ("::/0",), [5, ["x"], ["10.0.0.0/33"]]),
    "egress.allowed_hosts": (
        ["Tools.internal", "*.corp"],
        "Tools.internal, *.corp",
        ("tools.internal", "*.corp"),
        [5, ["*"], ["a*b"], ["http://a"], ["a:80"], ["a/b"], [""], ["a b"]],
    ),
    "egress.discovered_networks": (
        ["10.0.0.0/8"],
        "10.0.0.0/8",
        ("10.0.0.0/8",),
        [5, ["x"], ["10.0.0.0/33"]],
    ),
    "egress.discovered_hosts": (["*.svc"], "*.svc", ("*.svc",), [5, ["*"], ["a/b"]]),
    # What they do together is in tests/common/discovery.
    "sources.listed": (
        [{"name": "a", "type": "file", "path": "/x"}],
        '[{"name": "a", "type": "file", "path": "/x"}]',
        None,
        [
            5,
            "a",
            [{"name": "a", "type": "file"}],
            [{"name": "a", "type": "m:C", "path": "/x"}],
            [{"name": "a", "type": "m:C", "kubernetes": {}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"namespaces": ["A"]}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"namespaces": ["a", "a"]}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"cluster_domain": "a/b"}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"path": "mcp"}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"api_url": "ftp://x"}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"token_file": "x"}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"selector": ""}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"watch_timeout": 0}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"names_from": ["A"]}}],
            [{"name": "a", "type": "kubernetes", "kubernetes": {"most_services": 0}}],
            [{"name": "a", "type": "m:C", "allow_credentials": "perhaps"}],
            [{"name": "", "type": "file", "path": "/x"}],
            [{"name": "a", "type": "file", "path": "/x", "interval": 0}],
            [{"name": "a", "type": "file", "path": "/x", "timeout": 0}],
            [{"name": "a", "type": "file", "path": "/x"}] * 2,
        ],
    ),
    "egress.denied_hosts": (["a"], "a", ("a",), [5, ["*"], ["a/b"]]),
    "egress.allowed_factories": (["own", "m:C"], "own, m:C", ("own", "m:C"), [5, ["m:"], ["A b"]]),
    "egress.allowed_commands": (
        ["uvx mcp-server-time", "echo"],
        '["uvx mcp-server-time", "echo"]',
        ("uvx mcp-server-time", "echo"),
        [5, [""], ["'unclosed"], ["--flag"], [["a"]]],
    ),
    "credentials.providers": (
        ["vault", "a.b:C"],
        "vault, a.b:C",
        ("vault", "a.b:C"),
        [5, [5], ["a b"], ["a", "a"], [":C"], ["a:b:c"], [""]],
    ),
    "credentials.timeout": (2, "2", 2.0, SECONDS),
    "credentials.cache_ttl": (2, "2", 2.0, SECONDS),
    "credentials.cache_size": (2, "2", 2, COUNT),
    "credentials.negative_ttl": (0, "0", 0.0, SECONDS_OR_ZERO),
    "credentials.refresh_ahead": (0, "0", 0.0, SECONDS_OR_ZERO),
    "credentials.static": (
        [{"tool": "x", "tenant": "t", "values": {"key": "k"}}],
        '[{"tool": "x", "tenant": "t", "values": {"key": "k"}}]',
        None,
        [
            5,
            [{"tool": "x"}],
            [{"tool": "x", "values": {}}],
            [{"tool": "x", "values": {"a b": "k"}}],
            [{"tool": "x", "values": {"a": ""}}],
            [{"tool": "x", "values": {"a": 5}}],
            [{"tool": "x", "client": "c", "values": {"a": "k"}}],
            [{"tool": "x", "values": {"a": "k"}, "extra": 1}],
            [{"tool": "x", "values": {"a": "k"}}, {"tool": "x", "values": {"b": "k"}}],
        ],
    ),
    "credentials.environment_prefix": (
        "SECRET_OF",
        "SECRET_OF",
        "SECRET_OF",
        ["", "a-b", "a__b", "a_", "1a", "CANALGATE_X", 5],
    ),
    "credentials.directory": ("/s", "/s", "/s", ["", 5]),
    "credentials.discovery_tenant": ("t", "t", "t", ["", 5, "x" * 513]),
    "credentials.discovery_client": (None, "c", None, ["", 5, "x" * 513, "without a tenant"]),
    "credentials.discovery_subject": (None, "s", None, ["", 5, "x" * 513, "without a client"]),
    "vault.url": (None, "https://v", None, ["v:8200", "ftp://v", 5]),
    "vault.namespace": ("n/a", "n/a", "n/a", ["", 5]),
    "vault.mount": ("kv/x", "kv/x", "kv/x", ["", "/kv", "kv/", "..", "a b", 5]),
    "vault.tool_path": (
        "x/{tool}",
        "x/{tool}",
        "x/{tool}",
        ["", "x", "{tool}/..", "/{tool}", "{tool}/{tenant}"],
    ),
    "vault.tenant_path": (
        "{tenant}/{tool}",
        "{tenant}/{tool}",
        "{tenant}/{tool}",
        ["x", "{tool}", "{tenant}/{tool}/{client}", "{tenant}/{tool}/{key}", "{tenant}/{tool}?"],
    ),
    "vault.client_path": (
        "{tool}/{tenant}-{client}",
        "{tool}/{tenant}-{client}",
        "{tool}/{tenant}-{client}",
        ["{tool}/{tenant}", "{tool}/{client}", 5],
    ),
    "vault.auth": ("AppRole", "kubernetes", None, ["ldap", "", 5]),
    "vault.auth_mount": ("k8s", "k8s", "k8s", ["", "/", 5]),
    "vault.token": ("t", "t", None, [5, []]),
    "vault.token_file": ("/t", "/t", "/t", [5]),
    "vault.role_id": ("r", "r", None, [5, []]),
    "vault.secret_id": ("s", "s", None, [5, []]),
    "vault.secret_id_file": ("/s", "/s", "/s", [5]),
    "vault.role": ("r", "r", "r", ["", 5]),
    "vault.jwt_file": ("/j", "/j", "/j", [5, None]),
    "vault.ca_file": ("/c", "/c", "/c", [5]),
    "aws.region": ("eu-central-1", "eu-central-1", "eu-central-1", ["", "eu central", "a.b", 5]),
    "aws.endpoint_url": ("https://a", "https://a", "https://a", ["a", "http://a", 5]),
    "aws.tool_name": ("x/{tool}", "x-{tool}", None, ["", "x", "x.{tool}", "{tool}/{tenant}", 5]),
    "aws.tenant_name": (
        "{tenant}/{tool}",
        "{tenant}/{tool}",
        "{tenant}/{tool}",
        ["{tool}", "{tool}{tenant}", "{tool}_{tenant}", "{tool}/{tenant}/{client}", "{tool}/{key}"],
    ),
    "aws.client_name": (
        "{tool}/{tenant}-{client}",
        "{tool}/{tenant}-{client}",
        "{tool}/{tenant}-{client}",
        ["{tool}/{tenant}", "{tool}/{client}", "{tool}/{tenant}x{client}", 5],
    ),
    "aws.version_stage": ("AWSPREVIOUS", "x", None, ["", "x" * 257, 5]),
    "aws.access_key_id": (None, "k", None, [5, "without a secret"]),
    "aws.secret_access_key": (None, "k", None, [5, "without a key"]),
    "aws.session_token": (None, "k", None, [5, "without a key"]),
    "aws.ca_file": ("/c", "/c", "/c", ["", 5]),
    "gcp.project": ("p-1", "p-1", "p-1", ["", "a/b", "-a", 5]),
    "gcp.endpoint_url": ("https://a", "https://a", "https://a", ["a", "http://a", 5]),
    "gcp.tool_name": ("x-{tool}", "x-{tool}", "x-{tool}", ["", "x", "x/{tool}", "{tool}-{tenant}", 5]),
    "gcp.tenant_name": (
        "{tenant}-{tool}",
        "{tenant}-{tool}",
        "{tenant}-{tool}",
        ["{tool}", "{tool}/{tenant}", "{tool}{tenant}", "{tool}-{tenant}-{client}"],
    ),
    "gcp.client_name": (
        "{tool}-{tenant}-x-{client}",
        "{tool}-{tenant}-x-{client}",
        "{tool}-{tenant}-x-{client}",
        ["{tool}-{tenant}", "{tool}-{client}", 5],
    ),
    "gcp.version": ("3", "stable", None, ["", "a/b", "../1", 5]),
    "gcp.credentials_file": ("/g", "/g", "/g", ["", 5]),
    "gcp.anonymous": (None, "true", None, [*FLAG, True]),
    "gcp.ca_file": ("/c", "/c", "/c", ["", 5]),
    "client_credentials.clients": (
        [ISSUED],
        str(ISSUED).replace("'", '"'),
        None,
        [
            5,
            [{}],
            [{**ISSUED, "token_url": "http://as.example.com/token"}],
            [{**ISSUED, "token_url": "as.example.com"}],
            [{**ISSUED, "auth": "tls_client_auth"}],
            [{**ISSUED, "auth": "private_key_jwt"}],
            [{**ISSUED, "private_key": "k"}],
            [{**ISSUED, "client_secret_file": "/s"}],
            [{**ISSUED, "algorithm": "none"}],
            [{**ISSUED, "scopes": ["a b"]}],
            [{**ISSUED, "resources": ["api"]}],
            [{**ISSUED, "resources": ["https://a#b"]}],
            [{**ISSUED, "audiences": [""]}],
            [{**ISSUED, "client": "c"}],
            [{**ISSUED, "extra": 1}],
            [ISSUED, ISSUED],
        ],
    ),
    "client_credentials.leeway": (3, "3", 3.0, SECONDS_OR_ZERO),
    "token_exchange.exchanges": (
        None,
        "[]",
        None,
        [5, [{}], [{**ISSUED, "subject_audience": ""}], [{**ISSUED, "extra": 1}], [ISSUED, ISSUED], [ISSUED]],
    ),
    "token_exchange.issuer": ("i", "i", "i", ["", 5, "x" * 513]),
    "token_exchange.signing_key": ("k", "k", None, [5, []]),
    "token_exchange.signing_key_file": ("/k", "/k", "/k", ["", 5]),
    "token_exchange.signing_key_id": ("k", "k", "k", ["", 5]),
    "token_exchange.signing_algorithm": ("ES256", "EdDSA", None, ["none", "HS256", 5]),
    "token_exchange.actor": ("a", "a", "a", ["", 5, "x" * 513]),
    "token_exchange.leeway": (3, "3", 3.0, SECONDS_OR_ZERO),
    "policy.rules": (
        [{"effect": "deny", "tenants": ["a"]}],
        '[{"effect": "deny", "tenants": ["a"]}]',
        None,
        [
            *(5, "x", [{}], [{"effect": "forbid"}], [{"effect": "deny", "x": 1}]),
            [{"effect": "deny", "tenants": []}],
            [{"effect": "deny", "resources": ["note://a/../b"]}],
            [{"effect": "deny", "resources": ["note://%zz"]}],
            [{"effect": "deny", "id": "a"}, {"effect": "allow", "id": "a"}],
        ],
    ),
    "policy.tools": (
        {"git": [{"effect": "allow", "mcp_tools": ["git_*"]}]},
        '{"git": [{"effect": "allow", "mcp_tools": ["git_*"]}]}',
        None,
        [5, {"git": 5}, {"git": [{"effect": "deny", "tools": ["a"]}]}, {"git": [{"effect": "deny", "x": 1}]}],
    ),
    "policy.evaluators": (
        [{"id": "e", "type": "cel", "expression": "true"}],
        '[{"id": "e", "type": "cel", "expression": "true"}]',
        None,
        [
            *(5, [{"id": "e", "type": "cel"}], [{"id": "e", "type": "lua"}], [{"type": "opa"}]),
            [{"id": "e", "type": "opa", "url": "no"}],
            [{"id": "e", "type": "cel", "expression": "true", "url": "http://h/"}],
            [{"id": "e", "type": "cel", "expression": "true", "timeout": 0}],
            [{"id": "e", "type": "cel", "expression": "true", "max_in_flight": 0}],
            [{"id": "e", "type": "cel", "expression": "true"}] * 2,
        ],
    ),
    "policy.evaluator": ("e", "e", None, ["nobody", "", 5]),
    "policy.tenants": ({"acme": "e"}, "{acme: e}", None, [5, {"acme": "nobody"}, {"acme": 5}]),
    "runtime.request_timeout": (5, "5", 5.0, SECONDS),
    "runtime.startup_timeout": (5, "5", 5.0, SECONDS),
    "runtime.idle_timeout": (5, "5", 5.0, SECONDS),
    "runtime.queue_max_length": (5, "5", 5, COUNT),
    "runtime.queue_max_age": (5, "5", 5.0, [value for value in SECONDS if value is not None]),
    "runtime.max_result_bytes": (2048, "2048", 2048, BYTES),
    "runtime.result_ttl": (5, "5", 5.0, SECONDS),
    "runtime.circuit_failures": (6, "6", 6, COUNT),
    "runtime.circuit_open_for": (5, "5", 5.0, SECONDS),
    "runtime.circuit_probes": (5, "5", 5, COUNT),
    "runtime.health_interval": (0, "0", 0.0, [*SECONDS_OR_ZERO, 4.9]),
    "runtime.health_timeout": (6, "6", 6.0, [*SECONDS, 1, 31]),
    "runtime.health_degraded_after": (0.5, "0.5", 0.5, [*SECONDS, 5]),
    "runtime.pinning": ("QUARANTINE", "quarantine", "quarantine", ["on", True, 5, None, ""]),
    "runtime.approve_first": (True, "true", True, FLAG),
    "runtime.hidden_characters": ("Reject", "reject", "reject", ["off", True, 5, None]),
    "discovery.ttl": (5, "5", 5.0, SECONDS),
    "discovery.timeout": (5, "5", 5.0, SECONDS),
    "discovery.era_probe_timeout": (5.5, "5.5", 5.5, SECONDS),
    "discovery.retry_min": (2, "2", 2.0, [*SECONDS, 61]),
    "discovery.retry_max": (5, "5", 5.0, [*SECONDS, 0.5]),
    "logging.level": ("DEBUG", "warning", None, ["inof", "", 5, None]),
    "audit.calls": (False, "false", False, FLAG),
    "audit.chain_key": ("k", "k", None, [5, True, [], ""]),
    "audit.max_backlog": (200, "200", 200, [99, *COUNT[:5]]),
    "audit.overflow": ("refuse", "REFUSE", None, ["spill", "drop", "", 5]),
    "audit.spill_dir": ("/spill", "/spill", "/spill", [5, [], ""]),
    "audit.sinks": (
        [{"type": "stdout"}],
        '[{"type": "stdout"}]',
        None,
        [
            5,
            ["stdout"],
            [{"name": "x"}],
            [{"type": ""}],
            [{"type": "File"}],
            [{"type": "file"}],
            [{"type": "file", "options": 5}],
            [{"type": "file", "options": {"path": ""}}],
            [{"type": "file", "options": {"path": "a", "fsync": "often"}}],
            [{"type": "file", "options": {"path": "a", "fsink": "never"}}],
            [{"type": "stdout", "options": {"path": "a"}}],
            [{"type": "webhook"}],
            [{"type": "webhook", "options": {"url": "ftp://x"}}],
            [{"type": "webhook", "options": {"url": "https://x", "secret": ""}}],
            [{"type": "postgres", "options": {"url": "mysql://x"}}],
            [{"type": "postgres", "options": {"url": "postgresql://x", "table": "a; drop table b"}}],
            [{"type": "stdout", "extra": 1}],
            [{"type": "stdout"}, {"type": "stdout"}],
        ],
    ),
    "logging.format": ("json", "JSON", "json", ["xml", 5]),
    "logging.levels": (
        {"a.b": "DEBUG", "c": "error"},
        "a.b=debug, c=ERROR",
        {"a.b": "debug", "c": "error"},
        ["a", "a=loud", {"a": "loud"}, {"a": 5}, {"": "debug"}, ["a=debug"], 5],
    ),
    "metrics.token": ("t" * 16, "t" * 16, None, [5, "short", "with a space in it"]),
    "metrics.allowed": (
        ["10.0.0.0/8", "unix"],
        "10.0.0.0/8,unix",
        ("10.0.0.0/8", "unix"),
        [5, ["host"], ["10.0.0.1/8"]],
    ),
    "flower.host": ("::1", "::1", "::1", ["", "http://h", "h/x", "a b", "u@h", 5, None]),
    "flower.port": (5556, "5556", 5556, [-1, 65536, "x", 1.5, True, None]),
    "flower.calls": (500, "500", 500, [99, 1_000_001, "many", 5.5]),
    "telemetry.exporter": ("otlp_grpc", "OTLP_GRPC", "otlp_grpc", ["otlp", "jaeger", 5]),
    "telemetry.endpoint": (
        "http://c:4318",
        "http://c:4318",
        "http://c:4318",
        ["c:4318", "grpc://c", "http://", "http://c:x", 5],
    ),
    "telemetry.headers": (
        "authorization=Basic c2VjcmV0, x-org=a",
        "authorization=Basic c2VjcmV0, x-org=a",
        None,
        ["hunter2", "a b=c", "a=b\nc", "=b", 5],
    ),
    "telemetry.sampling_ratio": (0.25, "0.25", 0.25, [-0.1, 1.1, "half", True, ".nan"]),
    "telemetry.trust_client_sampling": (False, "false", False, FLAG),
    "telemetry.forward_baggage": (True, "true", True, FLAG),
    "telemetry.metrics_exporter": (
        "otlp_grpc",
        "OTLP_GRPC",
        "otlp_grpc",
        ["otlp", "console", "prometheus", 5],
    ),
    "telemetry.metrics_interval": (30, "30", 30, [0, -1, "often", True, ".inf"]),
    "telemetry.service_name": ("gate", "gate", "gate", ["", "x" * 129, 5]),
    "telemetry.resource_attributes": (
        ["deployment.environment.name=prod", "team=a"],
        "deployment.environment.name=prod, team=a",
        ("deployment.environment.name=prod", "team=a"),
        [["a"], ["=b"], ["a="], [5], 5],
    ),
}
PLAIN = [key for key, case in CASES.items() if case[2] is not None]
REFUSED = [(key, bad) for key, case in CASES.items() for bad in case[3]]


def held(settings: Settings, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(settings, section), name)


def write(directory: Path, key: str, value: Any) -> Path:
    section, name = key.split(".")
    path = directory / "canalgate.yaml"
    path.write_text(yaml.safe_dump({section: {name: value}}))
    return path


def test_every_setting_is_in_the_table() -> None:
    """A new setting without a case here fails."""
    assert set(CASES) == set(KEYS)


@pytest.mark.parametrize("key", PLAIN)
def test_it_can_be_given_in_the_file(key: str, tmp_path: Path) -> None:
    """The value of the file replaces the default, which is another one."""
    value, _, expected, _ = CASES[key]
    assert held(Settings(), key) != expected
    assert held(load(write(tmp_path, key, value), {}), key) == expected


@pytest.mark.parametrize("key", PLAIN)
def test_it_can_be_given_in_the_environment(key: str) -> None:
    """Text becomes a value of the right type."""
    _, text, expected, _ = CASES[key]
    assert held(load(None, {variable_of(*key.split(".")): text}), key) == expected


@pytest.mark.parametrize("key", PLAIN)
def test_it_can_be_given_on_the_command_line(key: str) -> None:
    """A dotted key with a value of any fitting type."""
    value, _, expected, _ = CASES[key]
    assert held(load(None, {}, overrides={key: value}), key) == expected


@pytest.mark.parametrize(("key", "bad"), REFUSED)
def test_a_wrong_value_is_refused_by_name_and_never_repeated(key: str, bad: Any, tmp_path: Path) -> None:
    """The message names file and line, section and key."""
    path = write(tmp_path, key, bad)
    with pytest.raises(ConfigurationError) as caught:
        load(path, {})
    section, name = key.split(".")
    finding = next(line for line in caught.value.message.splitlines() if section in line)
    assert name in finding
    assert f"{path}:" in finding
    assert "validation error" not in caught.value.message


@pytest.mark.parametrize("text", ["rediss://u:p@h:1/2", "unix:///run/x.sock?db=1", "redis://h"])
def test_a_redis_url_is_kept_and_its_password_hidden(text: str) -> None:
    """The text itself is what a client needs; what is printed has no password."""
    url = load(None, {"CANALGATE_REDIS__URL": text}).redis.url
    assert url == text
    assert ":p@" not in repr(url)


def test_an_empty_redis_url_is_none() -> None:
    """Compose files pass variables on as empty text."""
    assert load(None, {"CANALGATE_REDIS__URL": ""}).redis.url is None


@pytest.mark.parametrize("where", ["file", "environment"])
def test_api_keys_hold_a_secret_and_a_caller(where: str, tmp_path: Path) -> None:
    """The key is hidden when printed."""
    value, text, _, _ = CASES["identity.api_keys"]
    settings = (
        load(write(tmp_path, "identity.api_keys", value), {})
        if where == "file"
        else load(None, {"CANALGATE_IDENTITY__API_KEYS": text})
    )
    (entry,) = settings.identity.api_keys
    assert (entry.key.get_secret_value(), entry.tenant, entry.client) == ("k", "t", "c")
    assert "'k'" not in repr(settings)


@pytest.mark.parametrize("where", ["file", "environment"])
def test_tenants_are_listed_by_name_or_mapping(where: str, tmp_path: Path) -> None:
    """Both ways of writing mean the same."""
    value, text, _, _ = CASES["tenants.listed"]
    settings = (
        load(write(tmp_path, "tenants.listed", value), {})
        if where == "file"
        else load(None, {"CANALGATE_TENANTS__LISTED": text})
    )
    assert [tenant.id for tenant in settings.tenants.listed] == ["a", "b"]


@pytest.mark.parametrize("where", ["file", "environment"])
def test_rules_and_evaluators_are_read(where: str, tmp_path: Path) -> None:
    """Both ways of giving them mean the same."""
    keys = ["policy.rules", "policy.tools", "policy.evaluators", "policy.evaluator", "policy.tenants"]
    if where == "file":
        path = tmp_path / "canalgate.yaml"
        path.write_text(yaml.safe_dump({"policy": {key.split(".")[1]: CASES[key][0] for key in keys}}))
        policy = load(path, {}).policy
    else:
        policy = load(None, {variable_of(*key.split(".")): CASES[key][1] for key in keys}).policy
    assert [name for name, _ in policy.named_rules()] == ["rules[0]", "tools.git[0]"]
    assert (policy.rules[0].tenants, policy.tools["git"][0].mcp_tools) == (("a",), ("git_*",))
    assert (policy.evaluator, policy.tenants, policy.evaluators[0].expression) == ("e", {"acme": "e"}, "true")


@pytest.mark.parametrize(("tenant", "most"), [("own", 7), ("plain", 3), ("nobody listed this one", 3)])
def test_a_tenant_has_its_own_bound_on_sessions_or_the_common_one(
    tenant: str, most: int, tmp_path: Path
) -> None:
    """And none at all where neither is set."""
    listed = ["plain", {"id": "own", "max_sessions": 7}]
    path = tmp_path / "canalgate.yaml"
    path.write_text(yaml.safe_dump({"tenants": {"max_sessions": 3, "listed": listed}}))
    tenants = load(path, {}).tenants
    assert layered(tenants.quota, tenants.layers.get(tenant, {})).max_sessions == most
    assert Settings().tenants.quota.max_sessions is None


def test_the_reason_of_a_contradiction_is_told() -> None:
    """Not only that the two settings do not go together."""
    with pytest.raises(ConfigurationError, match="two probes would overlap"):
        load(None, {}, overrides={"runtime.health_interval": 1})


@pytest.mark.parametrize("text", ["debug", "INFO", "Warning", "error"])
def test_a_log_level_may_be_written_in_capitals(text: str) -> None:
    """People write INFO."""
    assert load(None, {"CANALGATE_LOGGING__LEVEL": text}).logging.level == text.lower()
