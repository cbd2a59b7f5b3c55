"""Nothing connects past the guard: who opens connections is a list, and each one on it has its reason."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import httpx
import pytest
from pydantic import SecretStr

from common.audit.sinks.webhook import WebhookSink
from common.domain.egress import STRICT, EgressRules
from common.egress.client import guarded_client
from common.metrics.exporters import exporter_of, resources
from common.metrics.figures import Figures
from common.metrics.push import Reading
from common.policy.evaluation import PolicyCounts
from common.policy.loading import evaluators_of
from common.policy.testing import question
from common.settings import PolicySettings, Settings
from common.settings.audit_sinks import WebhookOptions
from common.settings.telemetry import TelemetrySettings
from common.telemetry.export import span_queue
from common.telemetry.metrics_plan import MetricsPlan
from common.telemetry.plan import plan_of
from common.telemetry.spans import Kind, Span
from gateway_web.identity.fetching import NotFetched, read_document
from gateway_worker.credentials.vault import VaultProvider
from tests.common.audit.chains import records
from tests.common.telemetry.test_export import PARENT
from tests.support.aio import run
from tests.support.backends import http_backend
from tests.support.connects import connects
from tests.worker.credentials.contract import asked

pytestmark = pytest.mark.security

ROOT = Path(__file__).parents[2]
OPENERS = {
    "common/egress/client.py": "the guard itself: httpx",
    "common/egress/session.py": "the guard itself: requests, for libraries that speak by it",
    "common/egress/deadline.py": "a copy of a connection that the guard has opened, to end it by",
    "gateway_worker/egress/http_pool.py": "calls to backends: judged by the same rules where it dials",
    "gateway_worker/credentials/vault.py": "hvac, on a session of the guard's",
    "gateway_worker/credentials/aws.py": "boto3 says who the worker is; secrets come by the guard's client",
    "gateway_worker/credentials/gcp.py": "google-auth, likewise",
    "common/metrics/exporters.py": "the same, of metrics",
    "common/telemetry/export.py": "OTLP: over HTTP on a session of the guard's; gRPC dials inside its own library",
    "common/audit/sinks/postgres.py": "libpq dials itself; its address is in the operator's own file",
    "common/store/dial.py": "Redis",
    "common/store/pipelined.py": "Redis",
    "common/store/subscription.py": "Redis",
    "common/processes/farewell.py": "Redis, from a process that is dying",
    "gateway_web/supervisor/ping.py": "Redis, before anything else is there",
    "gateway_web/supervisor/readiness.py": "our own listener",
    "gateway_web/wsgi_address.py": "binds, to see whether an address is free",
    "gateway_web/cli/client_config.py": "the command line, to see whether a gateway on this machine is there",
    "gateway_web/cli/client.py": "the command line, to the gateway that its user names",
    "gateway_web/cli/http_control.py": "the command line, to the gateway that its user names",
    "gateway_web/cli/doctor.py": "the command line, to the gateway that its user names",
}
"""The only modules that may open a connection, or hold a library that does."""
LIBRARIES = (
    *("requests", "urllib3", "urllib.request", "http.client", "httpcore", "aiohttp", "httpx2", "websockets"),
    *("ftplib", "smtplib", "telnetlib", "xmlrpc", "hvac", "boto3", "botocore", "google.cloud", "google.auth"),
    *("grpc", "psycopg", "opentelemetry.exporter.otlp.proto.http", "opentelemetry.exporter.otlp.proto.grpc"),
)
HTTPX = {
    *("Client", "AsyncClient", "HTTPTransport", "AsyncHTTPTransport"),
    *("get", "post", "put", "patch", "delete", "head", "options", "request", "stream"),
}
DIALS = {
    *("create_connection", "open_connection", "open_unix_connection", "create_unix_connection"),
    *("sock_connect", "connect_ex"),
}


def openings(source: str) -> Iterator[str]:
    """What in a module opens connections, or could."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if _is_library(name.name))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            whole = [f"{node.module}.{name.name}" for name in node.names]
            yield from (name for name in whole if _is_library(name) or _opens(*name.rsplit(".", 1)))
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if _opens(owner, node.attr):
                yield f"{owner}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if owner == "socket" and node.func.attr in ("socket", "fromfd"):
                yield f"{owner}.{node.func.attr}()"


def _is_library(name: str) -> bool:
    return any(name == library or name.startswith(library + ".") for library in LIBRARIES)


def _opens(owner: str, name: str) -> bool:
    return (owner == "httpx" and name in HTTPX) or name in DIALS


def modules() -> Iterator[tuple[str, str]]:
    """Every module of the three packages."""
    for package in ("common", "gateway_web", "gateway_worker"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_only_those_on_the_list_open_connections() -> None:
    """Whoever else wants to, asks ``common.egress``."""
    found = {name: sorted(set(openings(source))) for name, source in modules()}
    assert {name: what for name, what in found.items() if what and name not in OPENERS} == {}


def test_the_list_names_nobody_for_nothing() -> None:
    """A name that is left on it would let the next one in."""
    assert [name for name in OPENERS if not any(openings((ROOT / name).read_text()))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import httpx\nhttpx.Client()",
        "import httpx\nhttpx.get('http://x')",
        "from httpx import AsyncClient",
        "import requests",
        "from requests import Session",
        "from urllib import request",
        "import urllib.request",
        "import urllib.request as other",
        "from urllib.request import urlopen",
        "import http.client",
        "import socket\nsocket.create_connection(('x', 1))",
        "import socket\nsocket.socket()",
        "from socket import create_connection",
        "import asyncio\nasyncio.open_connection('x', 1)",
        "async def f(loop):\n    await loop.sock_connect(1, 2)",
        "def f():\n    import boto3",
    ],
)
def test_an_opening_is_seen(source: str) -> None:
    """In each of its spellings."""
    assert any(openings(source))


Ask = Callable[[str, EgressRules], None]


def key_set(url: str, rules: EgressRules) -> None:
    """The issuer's keys."""
    read_document(url, 2.0, rules)


def opa(url: str, rules: EgressRules) -> None:
    """An Open Policy Agent."""
    section = PolicySettings.model_validate({"evaluators": [{"id": "o", "type": "opa", "url": url}]})
    evaluator = evaluators_of(section, rules, PolicyCounts())["o"]
    try:
        evaluator.decide(question(), left=5)
    finally:
        evaluator.close()


def vault(url: str, rules: EgressRules) -> None:
    """Vault."""
    settings = Settings.model_validate(
        {
            "vault": {"url": url, "token": "t"},
            "credentials": {"timeout": 2},
            "egress": {"denied_networks": [str(network) for network in rules.denied_networks]},
        }
    )
    run(VaultProvider(settings).resolve(asked("github", "acme")))


def webhook(url: str, rules: EgressRules) -> None:
    """The audit journal's webhook."""
    sink = WebhookSink(WebhookOptions(url=cast("SecretStr", url), timeout=2), rules)
    try:
        sink.write(records(1))
    finally:
        sink.close()


def collector(url: str, rules: EgressRules) -> None:
    """A collector of traces, by HTTP."""
    plan = plan_of(TelemetrySettings(exporter="otlp_http", endpoint=url), {}, "web")
    assert plan is not None
    queue = span_queue(plan, rules)
    Span(queue.put, "x", Kind.CLIENT, PARENT, PARENT, {}).end()
    queue.close(timeout=10)


def collector_of_metrics(url: str, rules: EgressRules) -> None:
    """A collector of metrics, by HTTP."""
    plan = MetricsPlan(exporter="otlp_http", endpoint=url)
    exporter, figures = exporter_of(plan, rules)(), Figures("p")
    figures.count("canalgate_reloads", "taken")
    exporter.send(Reading(figures, resources(plan)).take())
    exporter.close()


@pytest.mark.parametrize(
    "ask", [key_set, opa, vault, webhook, collector, collector_of_metrics], ids=lambda ask: ask.__name__
)
def test_the_operator_s_own_addresses_are_judged(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is good, metadata services are not, and what is denied goes before."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    begun: dict[str, list[str]] = {}
    denied = EgressRules(denied_networks=(ip_network("127.0.0.0/8"),))
    for url, rules in (
        ("http://127.0.0.1:9", STRICT),
        ("http://127.0.0.1:9", denied),
        ("http://169.254.169.254", STRICT),
    ):
        with connects() as seen, suppress(OSError, httpx.HTTPError, NotFetched):
            ask(url, rules)
        begun[f"{url} {len(rules.denied_networks)}"] = sorted(set(seen))
    assert begun == {
        "http://127.0.0.1:9 0": ["127.0.0.1"],
        "http://127.0.0.1:9 1": [],
        "http://169.254.169.254 0": [],
    }


def test_no_more_connections_than_said() -> None:
    """Who comes beyond waits for one, no longer than for anything else."""
    with (
        http_backend(lambda connection, _: connection.respond("200 OK", b"{}")) as server,
        guarded_client(STRICT, local=True, timeout=0.2, connections=1) as client,
        client.stream("GET", server.url),
        pytest.raises(httpx.PoolTimeout),
    ):
        client.get(server.url)
