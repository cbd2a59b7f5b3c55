"""``/admin/v1/tools/<tool>/<verb>``: switch, drain, refresh, and the circuit by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from common.domain.ids import ToolId
from common.domain.tool_status import StateChange
from common.identity.operators import Role
from common.registry.lifecycle import Lifecycle
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Accepted, Changed, Drain, DrainQuery, ToolPath, TripBody
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as
from gateway_web.admin.tools import TAG


def add_tool_verbs(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of what operators do to tools."""
    lifecycle = Lifecycle(gateway.client, gateway.keys)
    switches: Mapping[str, tuple[str, Callable[..., StateChange]]] = {
        "enable": ("Let the tool be called, whatever its definition says.", lifecycle.enable),
        "disable": ("Refuse new calls with TOOL_DISABLED.", lifecycle.disable),
        "drain": ("Let the tool take no new sessions; those that live go on.", lifecycle.drain),
        "undrain": ("Let the tool take new sessions again.", lifecycle.undrain),
    }

    def add_switch(verb: str, words: str, method: Callable[..., StateChange]) -> None:
        def switch(path: ToolPath) -> Response:
            actor = acting_as(Role.OPERATOR)
            change = method(ToolId(path.tool), actor=actor.name)
            return answer(Changed(tool=path.tool, changed=change.changed))

        switch.__name__ = f"{verb}_tool"
        switch.__doc__ = words
        api.post(f"/tools/<path:tool>/{verb}", tags=[TAG], responses={200: Changed})(switch)

    for verb, (words, method) in switches.items():
        add_switch(verb, words, method)

    @api.get("/tools/<path:tool>/drain", tags=[TAG], responses={200: Drain})
    def get_drain(path: ToolPath, query: DrainQuery) -> Response:
        """See what a tool still has; with `wait`, once nothing is left or the time is over."""
        acting_as(Role.VIEWER)
        tool = gateway.registry.get(ToolId(path.tool)).id
        left = lifecycle.wait_drained(tool, query.wait)
        return answer(
            Drain(
                tool=tool,
                sessions=left.sessions,
                waiting=left.waiting,
                in_flight=left.in_flight,
                drained=left.done,
            )
        )

    @api.post("/tools/<path:tool>/refresh", tags=[TAG], responses={202: Accepted})
    def refresh_tool(path: ToolPath) -> Response:
        """Ask the tool again what it offers."""
        acting_as(Role.OPERATOR)
        gateway.registry.refresh(ToolId(path.tool))
        return answer(Accepted(tool=path.tool), status=202)

    @api.post("/tools/<path:tool>/circuit/reset", tags=[TAG], responses={200: Changed})
    def reset_circuit(path: ToolPath) -> Response:
        """Close the tool's circuit and forget its failures."""
        actor = acting_as(Role.OPERATOR)
        change = lifecycle.reset_circuit(ToolId(path.tool), actor=actor.name)
        return answer(Changed(tool=path.tool, changed=change is not None))

    @api.post("/tools/<path:tool>/circuit/trip", tags=[TAG], responses={200: Changed})
    def trip_circuit(path: ToolPath, body: TripBody) -> Response:
        """Open the tool's circuit: all its calls are refused until it is reset."""
        actor = acting_as(Role.OPERATOR)
        change = lifecycle.trip_circuit(ToolId(path.tool), body.reason, actor=actor.name)
        return answer(Changed(tool=path.tool, changed=change is not None))
