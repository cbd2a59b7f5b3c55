"""One frozen tree of settings. Each field says what it means; units and bounds come with its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, InstanceOf, model_validator

from common.domain.errors import InvalidRequest
from common.domain.rules import CircuitRules, HealthRules
from common.domain.tls import PLAIN_TLS
from common.domain.tool import (
    DEFAULT_IDLE_TIMEOUT,
    DEFAULT_QUEUE_MAX_LENGTH,
    DEFAULT_REQUEST_TIMEOUT,
    DEFAULT_STARTUP_TIMEOUT,
    Tool,
)
from common.settings.admin import AdminSettings
from common.settings.audit import AuditSettings
from common.settings.aws import AwsSettings
from common.settings.client_credentials import ClientCredentialsSettings
from common.settings.content import APPROVE_FIRST_TEXT, HIDDEN_TEXT, PINNING_TEXT, HiddenWord, PinningWord
from common.settings.credentials import CredentialsSettings
from common.settings.egress import EgressSettings
from common.settings.encryption import EncryptionKeys
from common.settings.fields import (
    Bytes,
    Calls,
    Connections,
    Failures,
    FilePath,
    Host,
    Hosts,
    KeyPrefix,
    LowerCase,
    Origins,
    PageSize,
    Port,
    Processes,
    Proxies,
    RedisUrl,
    Seconds,
    SecondsOrZero,
    Sessions,
    is_loopback,
)
from common.settings.flower import FlowerSettings
from common.settings.gcp import GcpSettings
from common.settings.identity import IdentitySettings
from common.settings.levels import Levels
from common.settings.metrics import MetricsSettings
from common.settings.policy import PolicySettings
from common.settings.section import Section
from common.settings.sources import SourcesSettings
from common.settings.telemetry import TelemetrySettings
from common.settings.tenants import TenantsSettings
from common.settings.tls import TlsKeys
from common.settings.token_exchange import TokenExchangeSettings
from common.settings.vault import VaultSettings
from common.settings.web_tls import ListenerTlsKeys


class _Redis(Section):
    url: RedisUrl | None = Field(
        default=None,
        description="Server to use: redis://, rediss:// or unix://. Absent: `canalgate up` starts its own.",
    )
    connect_timeout: Seconds = Field(default=2.0, description="Longest wait for a connection to the server.")
    socket_timeout: Seconds = Field(default=5.0, description="Longest wait for one answer of the server.")
    key_prefix: KeyPrefix = Field(
        default="canalgate",
        description=(
            "Begins the name of every key but the queues and results, whose names are Celery's. "
            "Give each gateway a Redis of its own."
        ),
    )
    encryption_keys: EncryptionKeys = Field(
        default=(),
        description="Keys, each with id and secret, that seal what callers send and tools answer wherever it lies in "
        "Redis: the first one seals, each of them opens. None: it lies there in the clear.",
    )
    accept_plain: bool = Field(
        default=False,
        description="With encryption_keys: True takes payloads that are not sealed, such as those of stock Celery "
        "producers.",
    )


class RedisSettings(TlsKeys, _Redis):
    """The Redis (or Valkey) server that holds queues, sessions and results."""

    @model_validator(mode="after")
    def _tls_agrees(self) -> RedisSettings:
        try:
            rules = self.tls_rules()
        except InvalidRequest as error:
            raise ValueError(error.message) from None
        if rules != PLAIN_TLS and not str(self.url).startswith("rediss://"):
            raise ValueError("tls_* keys go with a url of rediss://")
        return self


class _Web(Section):
    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on; beyond loopback an identity resolver is needed.",
    )
    port: Port = Field(default=8080, description="TCP port to listen on; 0 takes a free one.")
    processes: Processes = Field(default=1, description="Web processes to run.")
    connections: Connections = Field(default=4000, description="Open client connections per web process.")
    allowed_hosts: Hosts = Field(
        default=(),
        description="Values of the Host header to accept beside loopback names and web.host.",
    )
    allowed_origins: Origins = Field(
        default=(), description="Origins whose pages may call, beside the gateway's own."
    )
    trusted_proxies: Proxies = Field(
        default=(),
        description="Addresses or networks of proxies whose headers on the caller are believed, and unix for those on "
        "a Unix socket. Absent: this machine's, if web.host is on loopback.",
    )
    max_body_bytes: Bytes = Field(default=4 * 1024 * 1024, description="Largest request body to accept.")
    write_timeout: Seconds = Field(
        default=30.0,
        description="How long a client may take nothing of what is written to it before it is cut off.",
    )
    read_timeout: Seconds = Field(
        default=60.0, description="How long a request may take to come, from its first byte to its last."
    )
    session_idle_timeout: Seconds = Field(
        default=1800.0, description="How long an MCP session without requests is kept."
    )
    stateless: bool = Field(
        default=False,
        description="Whether legacy clients over Streamable HTTP get no MCP session: nothing of them is kept in Redis, "
        "nobody is asked or told anything outside a call, and none can cancel.",
    )
    sse_commit_after: SecondsOrZero = Field(
        default=15.0,
        description="Silence after which a waiting call is answered as an event stream, with status 200.",
    )
    ping_interval: Seconds = Field(
        default=15.0, description="Time between keep-alive comments on an open event stream."
    )
    stream_max_age: SecondsOrZero = Field(
        default=0.0,
        description="Age at which a call's event stream is closed, for its client (2025-11-25) to come back; 0: never.",
    )
    list_page_size: PageSize = Field(
        default=0, description="Most items on a page of a list (tools/list and the like); 0: all on one."
    )


class WebSettings(ListenerTlsKeys, _Web):
    """The web processes that clients talk to."""


class WorkerSettings(Section):
    """The worker processes that hold the sessions with the tools."""

    processes: Processes = Field(default=1, description="Worker processes to run.")
    concurrency: Calls = Field(default=1000, description="Calls in flight per worker process.")
    max_sessions: Sessions = Field(
        default=1000,
        description="Most tool sessions per worker process; at the bound the idlest is ended for a new one.",
    )
    events: bool = Field(
        default=True, description="Whether workers send Celery task events, which Flower shows."
    )
    drain_timeout: SecondsOrZero = Field(
        default=30.0,
        description="How long a stopping worker waits for the calls in flight before it cuts them off.",
    )
    heartbeat_file: FilePath | None = Field(
        default=None,
        description="File that a worker touches once a second while it lives, for health checks; it says `ready`, or "
        "`waiting` while Redis is away. `%n` becomes the worker's name. Absent: none.",
    )

    @model_validator(mode="after")
    def _one_file_each(self) -> WorkerSettings:
        if self.heartbeat_file is not None and self.processes > 1 and "%n" not in self.heartbeat_file:
            raise ValueError("heartbeat_file must hold %n (the worker's name) where processes is above 1")
        return self


class RuntimeSettings(Section):
    """How calls run. Timeouts, queue bounds, circuit and health are the defaults of tools that set none themselves."""

    request_timeout: Seconds = Field(
        default=DEFAULT_REQUEST_TIMEOUT, description="Longest time from a call's acceptance to its answer."
    )
    startup_timeout: Seconds = Field(
        default=DEFAULT_STARTUP_TIMEOUT, description="Longest way to a usable session with a tool."
    )
    idle_timeout: Seconds = Field(
        default=DEFAULT_IDLE_TIMEOUT, description="How long a tool session without calls is kept."
    )
    queue_max_length: Calls = Field(
        default=DEFAULT_QUEUE_MAX_LENGTH,
        description="Most calls of one tool that wait for any worker, and for each owner of sessions; "
        "one more is refused.",
    )
    queue_max_age: Seconds | None = Field(
        default=None,
        description="A tool's calls are refused while its oldest has waited longer; absent: its `request_timeout`.",
    )
    max_result_bytes: Bytes = Field(
        default=8 * 1024 * 1024, description="Largest answer of a tool to pass on."
    )
    result_ttl: Seconds = Field(
        default=300.0, description="How long a call's result can be fetched from Redis."
    )
    circuit_failures: Failures = Field(
        default=CircuitRules().failures, description="Failures in a row after which a tool's circuit opens."
    )
    circuit_open_for: Seconds = Field(
        default=CircuitRules().open_for,
        description="How long an open circuit refuses calls before it lets some try.",
    )
    circuit_probes: Calls = Field(
        default=CircuitRules().probes,
        description="Most calls at a time, in the whole cluster, that try whether the tool works again.",
    )
    health_interval: SecondsOrZero = Field(
        default=HealthRules().interval,
        description="Time between two probes of a tool; 0: tools are not probed.",
    )
    health_timeout: Seconds = Field(
        default=HealthRules().timeout,
        description="Longest wait for the answer to a probe; beyond it the tool is unavailable.",
    )
    health_degraded_after: Seconds = Field(
        default=HealthRules().degraded_after,
        description="A tool that takes this long to answer a probe, or longer, is degraded.",
    )
    pinning: PinningWord = Field(default="warn", description=PINNING_TEXT)
    approve_first: bool = Field(default=False, description=APPROVE_FIRST_TEXT)
    hidden_characters: HiddenWord = Field(default="strip", description=HIDDEN_TEXT)

    @model_validator(mode="after")
    def _agrees(self) -> RuntimeSettings:
        try:
            HealthRules(
                interval=self.health_interval,
                timeout=self.health_timeout,
                degraded_after=self.health_degraded_after,
            )
        except InvalidRequest as error:
            raise ValueError(error.message) from None
        return self


class DiscoverySettings(Section):
    """How the gateway learns what tools offer."""

    ttl: Seconds = Field(default=300.0, description="Age at which a tool is asked again what it offers.")
    timeout: Seconds = Field(default=30.0, description="Longest time for one round of asking a tool.")
    era_probe_timeout: Seconds = Field(
        default=5.0, description="Longest wait for a tool to show whether it speaks MCP of the modern era."
    )
    retry_min: Seconds = Field(
        default=1.0, description="Wait after the first failure to ask a tool; doubles from there."
    )
    retry_max: Seconds = Field(default=60.0, description="Longest wait between two attempts to ask a tool.")

    @model_validator(mode="after")
    def _ordered(self) -> DiscoverySettings:
        if self.retry_min > self.retry_max:
            raise ValueError("retry_min must not be above retry_max")
        return self


class LoggingSettings(Section):
    """What is written to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = Field(
        default="info", description="Least severity that is written: debug, info, warning or error."
    )
    format: Annotated[Literal["console", "json"], LowerCase] = Field(
        default="console", description="console for people, json for machines (one object a line)."
    )
    levels: Levels = Field(
        default={},
        description="Levels of single loggers that go before logging.level, as name: level; those below a name "
        "have it too. `canalgate.access: debug` writes a line for each request.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProblem:
    """Why the tool ``id`` of the file was left out. The message holds no secret."""

    id: str
    message: str


class Settings(Section):
    """The whole configuration. ``Settings()`` is what an empty file means."""

    redis: RedisSettings = RedisSettings()
    web: WebSettings = WebSettings()
    worker: WorkerSettings = WorkerSettings()
    identity: IdentitySettings = IdentitySettings()
    tenants: TenantsSettings = TenantsSettings()
    egress: EgressSettings = EgressSettings()
    credentials: CredentialsSettings = CredentialsSettings()
    vault: VaultSettings = VaultSettings()
    aws: AwsSettings = AwsSettings()
    gcp: GcpSettings = GcpSettings()
    client_credentials: ClientCredentialsSettings = ClientCredentialsSettings()
    token_exchange: TokenExchangeSettings = TokenExchangeSettings()
    policy: PolicySettings = PolicySettings()
    runtime: RuntimeSettings = RuntimeSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    admin: AdminSettings = AdminSettings()
    logging: LoggingSettings = LoggingSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    metrics: MetricsSettings = MetricsSettings()
    flower: FlowerSettings = FlowerSettings()
    audit: AuditSettings = AuditSettings()
    sources: SourcesSettings = SourcesSettings()
    tools: tuple[InstanceOf[Tool], ...] = ()
    tool_problems: tuple[InstanceOf[ToolProblem], ...] = ()

    @model_validator(mode="after")
    def _not_open_to_the_world(self) -> Settings:
        if is_loopback(self.web.host):
            return self
        if self.identity.open:
            raise ValueError(
                "web.host is reachable from other machines while identity.resolver is none, so that "
                "anybody could call: set identity.resolver to api_key or jwt, or web.host to 127.0.0.1"
            )
        if self.identity.trusts_headers and not self.web.trusted_proxies:
            raise ValueError(
                "web.host is reachable from other machines while identity.resolver believes headers that anybody "
                "could send: set web.trusted_proxies to the proxy's addresses, or web.host to 127.0.0.1"
            )
        return self

    @property
    def listed_tenants(self) -> frozenset[str]:
        """The ids in ``tenants.listed``, and with resolver none the default tenant too."""
        own = (self.identity.default_tenant,) if self.identity.open else ()
        return frozenset((*own, *(tenant.id for tenant in self.tenants.listed)))


def _sections() -> Mapping[str, type[Section]]:
    found: dict[str, type[Section]] = {}
    for name, field in Settings.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found[name] = kind
    return found


SECTIONS: Mapping[str, type[Section]] = _sections()
"""The sections of the file by name; ``tools`` is not one of them."""
