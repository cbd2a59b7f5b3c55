"""The tools and the callers that most cases use, and the rules that follow from the tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from tests.chaos.load import Call, Mix
from tests.chaos.plan import ToolPlan
from tests.support.verdict import Rules

PLAIN = ToolPlan(name="plain", fields={"request_timeout": 10.0, "circuit_failures": 1000})
"""Over stdio, no leave to run twice."""
TWICE = ToolPlan(name="twice", fields={"request_timeout": 15.0, "retry": "safe", "circuit_failures": 1000})
"""Over stdio, and running twice does no harm."""
WEB = ToolPlan(name="web", http=True, fields={"request_timeout": 10.0, "circuit_failures": 1000})
"""Over HTTP."""
POOL = ToolPlan(
    name="pool",
    fields={"request_timeout": 10.0, "routing": "least_loaded", "pool_size": 2, "circuit_failures": 1000},
)
"""Two sessions that all callers share."""
NARROW = ToolPlan(
    name="narrow",
    fields={
        "request_timeout": 10.0,
        "queue_max_length": 10,
        "max_in_flight": 4,
        "max_in_flight_per_session": 1,
        "circuit_failures": 1000,
    },
)
"""Few calls at a time, one a session, and few that wait."""
TOXIC = ToolPlan(name="toxic", fields={"request_timeout": 3.0, "circuit_failures": 1000})
"""Its calls crash it or hang."""

USUAL = (PLAIN, TWICE, WEB)
STRANGERS = 0.02
"""The share of calls by a tenant that nobody knows."""


def everyday(
    tools: Sequence[ToolPlan] = USUAL, *, longest: int = 300, tenants: Sequence[str] = ("acme", "umbra")
) -> Mix:
    """Short and long calls of four callers in both eras at these tools, some with progress, some by strangers."""

    def mix(chance: Random) -> Call:
        tool = chance.choice(tools)
        stranger = chance.random() < STRANGERS
        return Call(
            tool=tool.name,
            leave=tool.leave,
            deadline=tool.deadline,
            tenant="stranger" if stranger else chance.choice(tenants),
            allowed=not stranger,
            client=chance.choice("ab"),
            era="modern" if stranger else chance.choice(("modern", "legacy")),
            action="stateful" if chance.random() < 0.2 else "act",
            ms=chance.choice((0, 5, 50, longest)),
            steps=chance.choice((0, 0, 0, 3)),
        )

    return mix


def rules_of(tools: Iterable[ToolPlan], **more: float) -> Rules:
    """The bounds that the tools' fields promise.

    What a dead worker held goes back to a queue even if it is full, so a queue may hold as many more as were in flight.
    """
    plans = list(tools)
    bounds = {tool.name: tool.fields for tool in plans}
    most = {name: int(found["max_in_flight"]) for name, found in bounds.items() if "max_in_flight" in found}
    return Rules(
        queue_max_length={
            name: int(found["queue_max_length"]) + most.get(name, 0)
            for name, found in bounds.items()
            if "queue_max_length" in found
        },
        max_in_flight=most,
        probes={name: int(found.get("circuit_probes", 1)) for name, found in bounds.items()},
        open_for={
            name: float(found["circuit_open_for"])
            for name, found in bounds.items()
            if "circuit_open_for" in found
        },
        shared=frozenset(name for name, found in bounds.items() if found.get("routing") == "least_loaded"),
        **more,  # type: ignore[arg-type]
    )
