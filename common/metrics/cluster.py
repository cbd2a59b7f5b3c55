"""What Redis says of the cluster, as figures. Gauges: each is what is true now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from common.audit.chain_store import ChainStore
from common.calls.dead_letters import DeadLetters
from common.control.cluster import QueueStatus, queues, workers
from common.control.tools import ToolOverview, overview
from common.domain.circuit import CircuitState
from common.domain.ids import TenantId
from common.domain.quota import Quota
from common.domain.tool import ToolState
from common.metrics.figures import Sample
from common.store.client import Client
from common.store.keys import Keys
from common.tenants.usage import TenantUsage, usage_of

_NO_QUOTAS: Mapping[TenantId, Quota] = {}


def cluster_figures(
    client: Client, keys: Keys, quotas: Mapping[TenantId, Quota] = _NO_QUOTAS
) -> list[Sample]:
    """All of them; ``quotas`` are those of the tenants that are shown.

    A few round trips, and two for each tool. Raises :class:`StoreUnavailable`.
    """
    tools = overview(client, keys)
    waiting = queues(client, keys, [tool.entry.id for tool in tools])
    found: list[Sample] = [
        ("canalgate_redis_up", (), 1),
        ("canalgate_workers", (), sum(worker.lease > 0 for worker in workers(client, keys))),
        ("canalgate_dead_letters", (), DeadLetters(client, keys).count()),
    ]
    for tool, queue in zip(tools, waiting, strict=True):
        found += _of_tool(tool)
        found += _of_queue(queue)
    if quotas:
        for usage in usage_of(client, keys, quotas):
            found += _of_tenant(usage)
    return [*found, *_of_journal(ChainStore(client, keys))]


def _of_tenant(usage: TenantUsage) -> Iterator[Sample]:
    name = (usage.tenant,)
    if usage.calls is not None and usage.quota.max_calls:
        yield "canalgate_tenant_calls", name, usage.calls
        yield "canalgate_tenant_calls_limit", name, usage.quota.max_calls
    if usage.requests is not None:
        yield "canalgate_tenant_requests_left", name, usage.requests.left
        yield "canalgate_tenant_requests_burst", name, usage.requests.rate.burst


def _of_tool(tool: ToolOverview) -> Iterator[Sample]:
    entry, name = tool.entry, (tool.entry.id,)
    for state in ToolState:
        yield "canalgate_tool_state", (*name, state.value), entry.state is state
    for circuit in CircuitState:
        yield "canalgate_tool_circuit_state", (*name, circuit.value), tool.circuit.state is circuit
    yield "canalgate_tool_draining", name, entry.draining
    yield "canalgate_tool_sessions", name, tool.load.sessions
    if entry.tool.max_sessions:
        yield "canalgate_tool_sessions_limit", name, entry.tool.max_sessions
    if entry.tool.max_in_flight:
        yield "canalgate_calls_in_flight_limit", name, entry.tool.max_in_flight


def _of_queue(queue: QueueStatus) -> Iterator[Sample]:
    name = (queue.tool,)
    yield "canalgate_queue_length", name, queue.waiting + queue.waiting_direct
    yield "canalgate_queue_age_seconds", name, queue.age or 0
    yield "canalgate_queue_drain_rate", name, queue.drained
    yield "canalgate_calls_in_flight", name, queue.in_flight


def _of_journal(store: ChainStore) -> Iterator[Sample]:
    state = store.state()
    yield "canalgate_audit_events", (), store.stream().length
    for sink, place in state.sinks.items():
        yield "canalgate_audit_sink_lag", (sink,), max(0, state.head.seq - place.seq)
