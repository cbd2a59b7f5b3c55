"""Coming back to the stream of a call: a GET with the id of the last event that the client has of it.

Any web process answers it. What came behind that event is given once, then what comes, up to the result. A client whose
log level lets warnings through is told how many messages are not kept any more (``common/calls/call.py``).

Source: 2025-11-25, "Transports", "Resumability and Redelivery"; SEP-1699.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from common.domain.ids import InvocationId
from common.domain.session import McpSession
from common.gateway import Gateway
from common.mcp.jsonrpc import Request
from common.mcp.revisions import Era
from gateway_web.http import HttpAnswer
from gateway_web.ingress.disconnect import hung_up
from gateway_web.ingress.events import STREAM_HEADERS
from gateway_web.ingress.requests import McpRequest
from gateway_web.ingress.streams import EVENT_PREFIX, CallStream

_PLACE = re.compile(re.escape(EVENT_PREFIX) + r"([0-9a-f-]{36})\.([0-9]{1,15})", re.ASCII)


def rejoined_stream(
    gateway: Gateway, session: McpSession, last_event_id: str | None, environ: Mapping[str, Any]
) -> HttpAnswer | None:
    """The rest of a call's stream; None if the id names no call of this session, or one that was over too long ago.

    Raises :class:`StoreUnavailable`.
    """
    named = _PLACE.fullmatch(last_event_id or "")
    if named is None:
        return None
    after = int(named[2])
    call = gateway.rejoin(session, InvocationId(named[1]), after)
    if call is None:
        return None
    invocation = call.invocation
    assert invocation.request_id is not None  # noqa: S101 - only answers to requests are streams
    mcp = McpRequest(
        request=Request(invocation.request_id, invocation.method, {}),
        caller=invocation.caller,
        tool=session.tool,
        era=Era.LEGACY,
        version=session.version,
        session=session,
        log_level=session.log_level,
        resumable=True,
    )
    stream = CallStream(call, mcp, partial(hung_up, environ))
    return HttpAnswer(
        body=stream.events(None, gateway.settings.web, after=after),
        headers=dict(STREAM_HEADERS),
        on_close=stream.close,
    )
