"""One secret by each provider of credentials, the servers that give them, and tools that tell what they were given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tests.security.canaries import CANARIES, SIGNING_KEY
from tests.support.backends import http_backend
from tests.support.mcp import legacy
from tests.support.otlp_collector import Collector, collector
from tests.support.servers.authorization import AuthorizationServer, running_authorization
from tests.support.servers.gateway import RunningGateway
from tests.support.servers.issuer import private_key
from tests.support.servers.process import server_command
from tests.support.servers.secret_managers import AwsServer, GcpServer, account_file, running_manager
from tests.support.servers.vault import Token, VaultServer

KEPT = ("static", "environment", "file", "vault", "aws", "gcp")
"""Providers that give what somebody put there."""
ISSUED = ("client_credentials", "token_exchange")
"""Providers that have a token issued."""


@dataclass
class Outside:
    """Servers that a gateway asks or tells."""

    vault: VaultServer
    vault_url: str
    aws: AwsServer
    gcp: GcpServer
    authorization: AuthorizationServer
    collector: Collector


@contextmanager
def around() -> Iterator[Outside]:
    """All of them."""
    vault = VaultServer()
    aws, gcp = AwsServer(keys={"AKIDEXAMPLE": CANARIES["aws_secret_key"]}), GcpServer()
    with (
        http_backend(vault.handle) as backend,
        running_manager(aws),
        running_manager(gcp),
        running_authorization() as authorization,
        collector() as found,
    ):
        yield Outside(vault, backend.url.removesuffix("/mcp"), aws, gcp, authorization, found)


def put_secrets(home: Path, outside: Outside) -> None:
    """Where each provider looks for them."""
    mounted = home / "secrets" / "file"
    mounted.mkdir(parents=True)
    (mounted / "token").write_text(CANARIES["file_credential"])
    outside.vault.tokens[CANARIES["vault_token"]] = Token(ends=None, renewable=False)
    outside.vault.put("canalgate/vault", token=CANARIES["vault_credential"])
    outside.aws.put("canalgate/aws", {"token": CANARIES["aws_credential"]})
    outside.gcp.put("canalgate-gcp", {"token": CANARIES["gcp_credential"]})
    outside.authorization.clients["gateway"] = CANARIES["client_secret"]
    outside.authorization.issuers["gate"] = private_key("ES256", "canary").public_key()


def settings_of_providers(home: Path, outside: Outside) -> dict[str, Any]:
    """Every provider, with what it needs to be believed."""
    client = {
        "token_url": outside.authorization.url,
        "client_id": "gateway",
        "client_secret": CANARIES["client_secret"],
    }
    exchange = client | {"tool": "token_exchange", "subject_audience": outside.authorization.audience}
    return {
        "credentials": {
            "providers": [*KEPT, *ISSUED],
            "static": [{"tool": "static", "values": {"token": CANARIES["static_credential"]}}],
            "directory": str(home / "secrets"),
            "environment_prefix": "GIVEN",
        },
        "vault": {"url": outside.vault_url, "token": CANARIES["vault_token"]},
        "aws": {
            "region": outside.aws.region,
            "endpoint_url": outside.aws.url,
            "access_key_id": "AKIDEXAMPLE",
            "secret_access_key": CANARIES["aws_secret_key"],
        },
        "gcp": {
            "project": outside.gcp.project,
            "endpoint_url": outside.gcp.url,
            "credentials_file": account_file(outside.gcp, home),
        },
        "client_credentials": {"clients": [client | {"tool": "client_credentials"}]},
        "token_exchange": {
            "issuer": "gate",
            "signing_key": SIGNING_KEY,
            "signing_algorithm": "ES256",
            "exchanges": [exchange],
        },
    }


def tools_of_providers() -> dict[str, Any]:
    """A tool for each provider, of its name."""
    command, *args = server_command("echo")
    return {
        name: {
            "command": command,
            "args": args,
            "credentials": {
                "scope": "subject" if name == "token_exchange" else "tool",
                "providers": name,
                "inject": {"env": {"GIVEN": "access_token" if name in ISSUED else "token"}},
            },
        }
        for name in (*KEPT, *ISSUED)
    }


def use_credentials(gateway: RunningGateway, outside: Outside, **headers: str) -> None:
    """Each tool has its own, and tells so to its caller."""
    for name in KEPT:
        seen = _given(gateway, name, headers)
        assert seen == CANARIES[f"{name}_credential"], name
    for name in ISSUED:
        assert _given(gateway, name, headers) in outside.authorization.tokens, name
    assert (outside.aws.refused, outside.gcp.refused) == (0, 0)
    assert outside.gcp.logins > 0


def _given(gateway: RunningGateway, tool: str, headers: dict[str, str]) -> str:
    return str(orjson.loads(legacy(gateway.tool_url(tool), **headers).text("env"))["GIVEN"])
