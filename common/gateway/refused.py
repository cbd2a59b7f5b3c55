"""Whatever refuses a call is told to the journal, and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from common.audit.refusals import refusal_event
from common.calls.call import Call
from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.domain.invocation import Caller
from common.gateway.process import Process

P = ParamSpec("P")
G = TypeVar("G", bound=Process)
Begin = Callable[Concatenate[G, Caller, ToolId, str, Mapping[str, Any], P], Call]


def note_refusal(
    gateway: Process,
    caller: Caller,
    tool: str,
    method: str,
    params: Mapping[str, Any],
    error: GatewayError,
    *,
    request_id: str | int | None,
) -> None:
    """Tell the journal and the figures of a call that is refused. ``tool`` is empty where none can be named."""
    private = gateway.keys.seals is not None
    event = refusal_event(caller, tool, method, params, error, request_id=request_id, private=private)
    gateway.refusals.note(event)
    if gateway.figures is not None:
        gateway.figures.refused("" if gateway.catalogue.get(ToolId(tool)) is None else tool, error)


def audited(begin: Begin[G, P]) -> Begin[G, P]:
    """Whatever refuses a call is told to the journal."""

    @wraps(begin)
    def told(
        gateway: G,
        caller: Caller,
        tool: ToolId,
        method: str,
        params: Mapping[str, Any],
        /,
        *args: P.args,
        **options: P.kwargs,
    ) -> Call:
        try:
            return begin(gateway, caller, tool, method, params, *args, **options)
        except GatewayError as error:
            request = options.get("request_id")
            name = request if isinstance(request, str | int) else None
            note_refusal(gateway, caller, tool, method, params, error, request_id=name)
            raise

    return told
