"""The key catalogue: the only place where a Redis key or channel is spelled.

Every entry says its type, its lifetime and who writes it. ``{p}`` is the prefix from ``redis.key_prefix``.
Names that Celery fixes (queues, results) have no prefix, so that stock Celery, Flower and KEDA find them. Two releases
may run side by side: JSON has a version (:mod:`common.domain.formats`); whatever else has a new form has a new key.

===============================  =======  ===========================  =========================================
key                              type     lifetime                     owner and meaning
===============================  =======  ===========================  =========================================
{p}:registry:version             string   permanent                    counts every change of registry or
                                                                       capabilities; the catalogues' version
{p}:registry:tools               hash     permanent                    tool id -> definition (JSON)
{p}:registry:versions            hash     permanent                    tool id -> version of its definition
{p}:registry:capabilities        hash     permanent                    tool id -> what its backend offers (JSON)
{p}:registry:changes             zset     permanent                    tool id by the version that changed it last
{p}:registry:refresh             hash     permanent                    tool id -> Redis ms of a wanted discovery
{p}:registry:states              hash     permanent                    tool id -> the operator's word: on, off,
                                                                       draining (JSON)
{p}:api-keys                     hash     permanent                    key id -> what is kept of an issued key (JSON):
                                                                       its digest, whose it is, until when
{p}:api-keys:version             string   permanent                    counts every change of them
{p}:registry:unapproved          hash     permanent                    tool id -> list and key of each definition that
                                                                       is not the approved one (JSON)
{p}:pins:<tool>                  hash     permanent                    definitions that were approved, those that wait
                                                                       for it, and how often this changed
{p}:health                       hash     permanent                    tool id -> what the last probe found (JSON)
{p}:probe:<tool>                 string   lease, PX                    the worker that probes the tool
{p}:circuit:<tool>               hash     permanent                    the tool's circuit breaker
{p}:circuit-permits:<tool>       zset     permanent                    invocation that tries a half-open circuit ->
                                                                       Redis ms at which its permit ends
{p}:discovery:<tool>             string   lease, PX                    the worker that is discovering the tool
{p}:mcp-session:<id>             string   sliding idle timeout         a client's session with us (JSON)
{p}:server-request:<id>          string   input_timeout + 1 minute     a backend's request that waits for a client's
                                                                       answer: who may answer, the worker's channel
{p}:client-answer:<id>           string   1 minute                     the answer, until the worker takes it (JSON)
{p}:session-stream:<session>     stream   the MCP session's            what it is told outside its requests: at most
                                                                       1,000 messages (JSON)
{p}:session-holder:<session>     string   the MCP session's            who hands that out at present
{p}:session-lists:<session>      string   the MCP session's            digests of the lists as it knows them (JSON)
{p}:call-stream:<invocation>     stream   until its result's end       frames of a call whose client can come back to
                                                                       it, by their places: at most 1,000, and 1 MiB
{p}:call-holder:<invocation>     string   the call's deadline and      who hands that out; whose call it is
                                          runtime.result_ttl
{p}:connection:<id>              string   lease, PX                    an open HTTP+SSE connection: whose it is, and at
                                                                       which endpoint (JSON)
{p}:connection-inbox:<id>        list     the connection's             messages of its client for the web process that
                                                                       holds it: at most 64, and 8 MiB
{p}:connection-bytes:<id>        hash     the inbox's                  bytes of these messages, number of the last
{p}:watches:<tool>:<session>     hash     1 day after the last change  MCP session and URI of a resource that it watches
                                                                       at the tool session
{p}:seal-key                     string   permanent                    the key of request states
{p}:nodes                        zset     permanent                    node -> Redis ms of the end of its lease
{p}:unacked:<node>               hash     permanent                    delivery tag -> message the node has begun; its
                                                                       rescue empties it
{p}:unsent:<node>                hash     1 day after the last entry   tag of a call whose session had to start first
                                                                       -> 1 until it is sent, then 0
{p}:fenced:<node>                string   1 day                        the node was declared dead: it is refused
{p}:direct:<node>:<queue>        list     permanent while not empty    calls of the tool for sessions of the node
{p}:direct-queues:<node>         set      permanent                    queues that may have such a list
{p}:fence                        string   permanent                    the last fencing token given out
{p}:sessions:<tool>              hash     permanent                    session -> owner node, fencing token, Redis ms
                                                                       of the claim
{p}:node-sessions:<node>         set      permanent                    tool and session of all that the node owns
{p}:tenant-sessions:<tenant>     set      permanent                    tool and session of all that the tenant has
{p}:mcp-sessions:<tenant>        zset     its newest member's          key of an MCP session -> Redis ms at which it
                                                                       expires; only where a bound on them counts
{p}:calls-of:<tenant>            zset     its last permit + 2 minutes  invocation under way -> Redis ms at which its
                                                                       permit ends; only where a bound on calls counts
{p}:calls-of:<tenant>:<client>   zset     the same                     the same for one client
{p}:rate:<tenant>                string   1 minute after it is empty   bucket of a tenant's requests: level, Redis us
{p}:rate:<tenant>:<client>       string   the same                     that of one client's
{p}:rate-of:<tenant>:<tool>:<n>  string   the same                     that of the capabilities that fit the glob <n>
{p}:rate-tool:<tool>             string   the same                     that of all calls of a tool
{p}:tenants:version              string   permanent                    counts every change of the tenants' records
{p}:tenants:records              hash     permanent                    tenant -> version, and what an operator set for
                                                                       it (JSON)
{p}:tenants:changes              zset     permanent                    tenant by the version that changed it last
{p}:session-facts:<node>         string   1 minute                     what the node tells operators of its sessions
                                                                       every few seconds (JSON)
{p}:session-calls:<tool>         hash     permanent                    session of a pool -> calls it was given
{p}:calls:<queue>                hash     permanent                    the ledger: invocation under way -> node, tag
{p}:began:<invocation>           string   1 minute                     begun before Redis was restarted: not again
{p}:held-back:<queue>            string   1 minute                     calls wait because max_in_flight is reached
{p}:audit                        stream   permanent                    what happened to calls, sessions and tools: at
                                                                       most audit.max_backlog events, unless a sink
                                                                       has not got them
{p}:audit-chain                  hash     permanent                    the keeper of the journal, the last record it has
                                                                       sealed, and of each sink the last it has safely
{p}:audit-marks                  zset     permanent                    places in the chain of what the journal holds,
                                                                       by their numbers: one for 500 records
{p}:audit-keeper                 string   lease, PX                    the process that seals and delivers the journal
{p}:credential-orders            stream   permanent                    operators' orders to forget credentials, or to
                                                                       build sessions anew: at most 1,000
{p}:figures                      zset     30 s after the last account   process that told its figures lately -> Redis ms
{p}:figures:<process>            string   30 s                         what a process counted (JSON): numbers only
{p}:figures-pusher               string   lease, PX                    the web process that pushes the cluster's figures
{p}:sources                      string   lease, PX                    the worker that asks the sources of tools
{p}:sweep                        string   lease, PX                    the worker that looks for dead nodes
{p}:dead-letters                 stream   permanent                    messages that no worker can run: at most
                                                                       1,000, of each at most 64 KiB
{p}:drain:<queue>                hash     1 minute after a fetch       ten seconds (Redis time) -> messages that
                                                                       workers took from the queue in them; since when
{p}:head:<queue>                 string   1 s                          when the queue's oldest message was queued, and
                                                                       when that was seen (Redis ms)
{p}:head:<node>:<queue>          string   1 s                          the same for a direct list
tool.<tool>                      list     permanent while not empty    the tool's queue: Celery messages
celery-task-meta-<id>            string   runtime.result_ttl           result of one invocation (Celery's form)
===============================  =======  ===========================  =========================================

Channels (publish/subscribe, hints and replies only; nothing depends on a message arriving):

``{p}:reply:<web process>`` replies of that process's calls; ``{p}:wake`` name of a queue that was empty and got a
message; ``{p}:wake:<node>`` the same for the queue's direct list of one node; ``{p}:registry`` the registry, an API
key or a tenant, changed; ``{p}:answer:<node>`` a client has answered a request of a backend; ``{p}:cancel`` an
invocation is taken back (to workers); ``{p}:roots`` a client's roots are others now (to workers);
``{p}:cancel-request`` a client cancelled a request or ended its MCP session (to web processes); ``{p}:close-session``
an operator wants a tool session closed (to workers); ``{p}:session-stream`` there is something for an MCP session, or
from a connection's client.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common.domain.ids import ClientId, InvocationId, McpSessionId, NodeId, TenantId, ToolId, encode_part
from common.store.sealing import Seals, without_keys

UNSENT_TTL = 24 * 3600
WATCHES_TTL = 24 * 3600
RESULT_PREFIX = "celery-task-meta-"


class _Name:
    """The key, or channel, of this name: there is one of it."""

    __slots__ = ("_rest",)

    def __init__(self, name: str) -> None:
        self._rest = f":{name}"

    def __get__(self, keys: Keys, _class: type) -> str:
        return keys.prefix + self._rest


@dataclass(frozen=True, slots=True)
class Keys:
    """Spells keys for one prefix, and knows what seals the payloads under them (None: they lie there in the clear)."""

    prefix: str = "canalgate"
    seals: Seals | None = field(default=None, compare=False, repr=False)

    def sealed(self, data: bytes, *place: str) -> bytes:
        """A payload as it may lie in Redis; ``place`` is what it is, and of which call or session."""
        return data if self.seals is None else self.seals.seal(data, *place)

    def opened(self, data: bytes, *place: str) -> bytes:
        """Inverse of :meth:`sealed`. Raises :class:`PayloadUnreadable`."""
        return without_keys(data) if self.seals is None else self.seals.open(data, *place)

    @property
    def begin(self) -> str:
        """What every key with a prefix begins with."""
        return f"{self.prefix}:"

    registry_version = _Name("registry:version")
    registry_tools = _Name("registry:tools")
    registry_versions = _Name("registry:versions")
    registry_capabilities = _Name("registry:capabilities")
    registry_changes = _Name("registry:changes")
    registry_refresh = _Name("registry:refresh")
    registry_states = _Name("registry:states")
    api_keys = _Name("api-keys")
    api_keys_version = _Name("api-keys:version")
    registry_unapproved = _Name("registry:unapproved")

    def pins(self, tool: ToolId) -> str:
        return f"{self.prefix}:pins:{encode_part(tool)}"

    health = _Name("health")

    def probe_lease(self, tool: ToolId) -> str:
        return f"{self.prefix}:probe:{encode_part(tool)}"

    def circuit(self, tool: ToolId) -> str:
        return f"{self.prefix}:circuit:{encode_part(tool)}"

    def circuit_permits(self, tool: ToolId) -> str:
        return f"{self.prefix}:circuit-permits:{encode_part(tool)}"

    def unsent(self, node: NodeId) -> str:
        return f"{self.prefix}:unsent:{encode_part(node)}"

    def fenced(self, node: NodeId) -> str:
        return f"{self.prefix}:fenced:{encode_part(node)}"

    def direct(self, node: NodeId, queue: str) -> str:
        return f"{self.prefix}:direct:{encode_part(node)}:{queue}"

    def direct_queues(self, node: NodeId) -> str:
        return f"{self.prefix}:direct-queues:{encode_part(node)}"

    fence = _Name("fence")

    def sessions(self, tool: ToolId) -> str:
        return f"{self.prefix}:sessions:{encode_part(tool)}"

    def node_sessions(self, node: NodeId) -> str:
        return f"{self.prefix}:node-sessions:{encode_part(node)}"

    def tenant_sessions(self, tenant: TenantId) -> str:
        return f"{self.prefix}:tenant-sessions:{encode_part(tenant)}"

    def mcp_sessions_of(self, tenant: TenantId) -> str:
        return f"{self.prefix}:mcp-sessions:{encode_part(tenant)}"

    def tenant_calls(self, tenant: TenantId) -> str:
        return f"{self.prefix}:calls-of:{encode_part(tenant)}"

    def client_calls(self, tenant: TenantId, client: ClientId) -> str:
        return f"{self.prefix}:calls-of:{encode_part(tenant)}:{encode_part(client)}"

    def tenant_rate(self, tenant: TenantId) -> str:
        return f"{self.prefix}:rate:{encode_part(tenant)}"

    def client_rate(self, tenant: TenantId, client: ClientId) -> str:
        return f"{self.prefix}:rate:{encode_part(tenant)}:{encode_part(client)}"

    def capability_rate(self, tenant: TenantId, tool: str, name: str) -> str:
        return f"{self.prefix}:rate-of:{encode_part(tenant)}:{encode_part(tool)}:{encode_part(name)}"

    def tool_rate(self, tool: ToolId) -> str:
        return f"{self.prefix}:rate-tool:{encode_part(tool)}"

    tenants_version = _Name("tenants:version")
    tenants_records = _Name("tenants:records")
    tenants_changes = _Name("tenants:changes")

    def session_facts(self, node: NodeId) -> str:
        return f"{self.prefix}:session-facts:{encode_part(node)}"

    def session_calls(self, tool: ToolId) -> str:
        return f"{self.prefix}:session-calls:{encode_part(tool)}"

    def calls(self, queue: str) -> str:
        return f"{self.prefix}:calls:{queue}"

    def began(self, invocation: InvocationId) -> str:
        return f"{self.prefix}:began:{encode_part(invocation)}"

    def held_back(self, queue: str) -> str:
        return f"{self.prefix}:held-back:{queue}"

    audit = _Name("audit")
    audit_chain = _Name("audit-chain")
    audit_marks = _Name("audit-marks")
    audit_lease = _Name("audit-keeper")

    def node_wake_channel(self, node: NodeId) -> str:
        return f"{self.prefix}:wake:{encode_part(node)}"

    def session_stream(self, session: McpSessionId) -> str:
        return f"{self.prefix}:session-stream:{encode_part(session)}"

    def session_holder(self, session: McpSessionId) -> str:
        return f"{self.prefix}:session-holder:{encode_part(session)}"

    def session_lists(self, session: McpSessionId) -> str:
        return f"{self.prefix}:session-lists:{encode_part(session)}"

    session_stream_channel = _Name("session-stream")

    def call_stream(self, invocation: InvocationId) -> str:
        return f"{self.prefix}:call-stream:{encode_part(invocation)}"

    def call_holder(self, invocation: InvocationId) -> str:
        return f"{self.prefix}:call-holder:{encode_part(invocation)}"

    def connection(self, name: str) -> str:
        return f"{self.prefix}:connection:{encode_part(name)}"

    def connection_inbox(self, name: str) -> str:
        return f"{self.prefix}:connection-inbox:{encode_part(name)}"

    def connection_bytes(self, name: str) -> str:
        return f"{self.prefix}:connection-bytes:{encode_part(name)}"

    def watches(self, tool: ToolId, session: str) -> str:
        return f"{self.prefix}:watches:{encode_part(tool)}:{encode_part(session)}"

    seal_key = _Name("seal-key")

    def server_request(self, name: str) -> str:
        return f"{self.prefix}:server-request:{encode_part(name)}"

    def client_answer(self, name: str) -> str:
        return f"{self.prefix}:client-answer:{encode_part(name)}"

    def answer_channel(self, node: NodeId) -> str:
        return f"{self.prefix}:answer:{encode_part(node)}"

    def discovery_lease(self, tool: ToolId) -> str:
        return f"{self.prefix}:discovery:{encode_part(tool)}"

    def mcp_session(self, session: McpSessionId) -> str:
        return f"{self.prefix}:mcp-session:{encode_part(session)}"

    nodes = _Name("nodes")

    def unacked(self, node: NodeId) -> str:
        return f"{self.prefix}:unacked:{encode_part(node)}"

    def drain(self, queue: str) -> str:
        return f"{self.prefix}:drain:{queue}"

    def head(self, queue: str) -> str:
        return f"{self.prefix}:head:{queue}"

    def direct_head(self, node: NodeId, queue: str) -> str:
        return f"{self.prefix}:head:{encode_part(node)}:{queue}"

    told_figures = _Name("figures")

    def figures(self, process: str) -> str:
        return f"{self.prefix}:figures:{encode_part(process)}"

    sweep_lease = _Name("sweep")
    figures_lease = _Name("figures-pusher")
    sources_lease = _Name("sources")
    dead_letters = _Name("dead-letters")

    @staticmethod
    def result(invocation: InvocationId) -> str:
        """Celery's own key of a task's result; also the channel on which a stock client waits."""
        return RESULT_PREFIX + invocation

    reply_prefix = _Name("reply:")
    wake_channel = _Name("wake")
    credential_orders = _Name("credential-orders")
    registry_channel = _Name("registry")
    cancel_channel = _Name("cancel")
    roots_channel = _Name("roots")
    close_session_channel = _Name("close-session")
    cancel_request_channel = _Name("cancel-request")
