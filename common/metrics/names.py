"""Every metric there is: name, kind, meaning and labels. Alert rules and dashboards may use these, and no others.

Labels have bounded sets of values: tool ids as they are registered, words of our own, names from the settings. Clients
and sessions are none; tenants are where they have bounds of their own, and no more than 200 of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PROCESS = "process"
"""The label that each figure of a process has: the worker's name, or ``web-<pid>@<host>``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """``labels`` are in the order in which values are given; those of a process have :data:`PROCESS` before them."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


OF_PROCESSES: Mapping[str, Metric] = {
    "canalgate_requests": Metric(
        "counter",
        "Requests of MCP clients that were answered, by outcome: ok, tool_error, rpc_error, or a code.",
        ("method", "outcome"),
    ),
    "canalgate_request_duration_seconds": Metric(
        "histogram", "Time from a request to the end of its answer.", ("method",)
    ),
    "canalgate_refusals": Metric(
        "counter", "Calls that were refused before they were queued.", ("tool", "code", "reason")
    ),
    "canalgate_calls": Metric(
        "counter",
        "Calls that workers ended, by outcome: ok, tool_error, rpc_error, or a code.",
        ("tool", "outcome"),
    ),
    "canalgate_call_duration_seconds": Metric(
        "histogram", "Time for which a worker held a call, its backend's included.", ("tool",)
    ),
    "canalgate_call_wait_seconds": Metric(
        "histogram", "Time from a call's acceptance to its begin at a worker.", ("tool",)
    ),
    "canalgate_repeated_calls": Metric(
        "counter", "Calls that were begun again because their first worker was lost.", ("tool",)
    ),
    "canalgate_reloads": Metric(
        "counter", "Times that the settings were read anew: taken, unchanged or refused.", ("outcome",)
    ),
    "canalgate_discovery_faults": Metric(
        "counter",
        "Faults of sources of tools, each told once: source_failed, or tool_refused.",
        ("source", "outcome"),
    ),
    "canalgate_identity_failures": Metric("counter", "Requests whose caller was refused.", ("reason",)),
    "canalgate_policy_evaluations": Metric(
        "counter", "Questions to policy evaluators, by outcome.", ("evaluator", "outcome")
    ),
    "canalgate_policy_evaluation_seconds": Metric(
        "histogram", "Time that an evaluator took to answer, or to fail.", ("evaluator",)
    ),
    "canalgate_policy_denials": Metric("counter", "Calls that policy denied, by ground.", ("ground",)),
    "canalgate_credential_answers": Metric(
        "counter", "Answers of credential providers, by outcome.", ("provider", "outcome")
    ),
    "canalgate_credential_cache": Metric(
        "counter", "Looks for credentials: hit (kept here) or miss (a provider was waited for).", ("outcome",)
    ),
    "canalgate_tool_sessions_begun": Metric(
        "counter", "Sessions with the tool's backend that this worker has opened.", ("tool",)
    ),
    "canalgate_tool_sessions_lost": Metric(
        "counter", "Sessions that ended since their process died or their connection broke.", ("tool",)
    ),
    "canalgate_streams": Metric(
        "gauge", "Streams that stand open now: streamable_http, http_sse, websocket.", ("transport",)
    ),
    "canalgate_reply_heals": Metric(
        "counter", "Replies that publish/subscribe lost, and that were found under the result's key."
    ),
    "canalgate_reply_subscriptions": Metric("counter", "Times that the channels of replies were heard anew."),
    "canalgate_requests_waiting": Metric("gauge", "Requests that wait for their call's end now."),
    "canalgate_worker_calls": Metric("gauge", "Calls that this worker runs now."),
    "canalgate_worker_sessions": Metric("gauge", "Tool sessions that this worker holds now."),
    "canalgate_worker_may_act": Metric("gauge", "1 while the worker holds its lease, else 0."),
}
"""What each process counts for itself."""

OF_CLUSTER: Mapping[str, Metric] = {
    "canalgate_redis_up": Metric(
        "gauge", "1 if Redis answered; at 0 only the figures of the process that was asked are there."
    ),
    "canalgate_workers": Metric("gauge", "Workers that hold their lease."),
    "canalgate_tool_state": Metric(
        "gauge", "1 for the state that the tool is in, else 0.", ("tool", "state")
    ),
    "canalgate_tool_circuit_state": Metric(
        "gauge", "1 for the state that the tool's circuit is in, else 0.", ("tool", "state")
    ),
    "canalgate_tool_draining": Metric("gauge", "1 while the tool is being drained.", ("tool",)),
    "canalgate_tool_sessions": Metric("gauge", "The tool's sessions with its backend.", ("tool",)),
    "canalgate_tool_sessions_limit": Metric("gauge", "Most that it may have; absent: any number.", ("tool",)),
    "canalgate_tenant_calls": Metric(
        "gauge",
        "Calls at a time of a tenant that has a bound on them, of the first 200 by name.",
        ("tenant",),
    ),
    "canalgate_tenant_calls_limit": Metric("gauge", "Most that it may have.", ("tenant",)),
    "canalgate_tenant_requests_left": Metric(
        "gauge", "Requests of a tenant with a rate that would pass at once now.", ("tenant",)
    ),
    "canalgate_tenant_requests_burst": Metric("gauge", "Most that may pass at once.", ("tenant",)),
    "canalgate_calls_in_flight": Metric("gauge", "Calls of the tool that workers hold.", ("tool",)),
    "canalgate_calls_in_flight_limit": Metric(
        "gauge", "Most that they may hold; absent: any number.", ("tool",)
    ),
    "canalgate_queue_length": Metric("gauge", "Calls of the tool that wait for a worker.", ("tool",)),
    "canalgate_queue_age_seconds": Metric("gauge", "How long the oldest of them has waited.", ("tool",)),
    "canalgate_queue_drain_rate": Metric(
        "gauge", "Calls a second that workers took from the tool's queue, lately.", ("tool",)
    ),
    "canalgate_dead_letters": Metric("gauge", "Messages that no worker could run, and that were kept."),
    "canalgate_audit_events": Metric("gauge", "Events that the audit journal holds in Redis."),
    "canalgate_audit_sink_lag": Metric(
        "gauge", "Sealed audit records that a sink has not safely.", ("sink",)
    ),
}
"""What Redis says of all processes together: the same whichever process is asked."""

METRICS: Mapping[str, Metric] = {**OF_PROCESSES, **OF_CLUSTER}

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histograms' buckets, in seconds; beyond the last there is one more."""
