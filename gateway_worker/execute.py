"""One invocation on the worker: session, call, result. Every end is an :class:`ExecutionResult`."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog

from common.domain.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    InvocationCancelled,
    InvocationTimeout,
    ToolDisabled,
    ToolNotFound,
)
from common.domain.invocation import ExecutionResult, Invocation, answer, failed, rpc_failure
from common.mcp.jsonrpc import JsonRpcError
from common.mcp.revisions import LEGACY_VERSIONS, MODERN_VERSIONS, Era, era_of_version
from common.mcp.translate import to_legacy_result, to_modern_result
from common.registry.catalogue import CatalogueReader
from common.registry.records import Entry
from common.store.clock import RedisClock
from gateway_worker.egress.backend import Backend
from gateway_worker.egress.link import NO_HEADERS, LinkLost, OnNotification, RpcError
from gateway_worker.param_headers import ParamHeaders
from gateway_worker.sessions import Sessions, ToolSession, usable

log = structlog.get_logger(__name__)

KNOWN_VERSIONS = frozenset((*LEGACY_VERSIONS, *MODERN_VERSIONS))


class Executor:
    """Runs invocations over this worker's sessions."""

    def __init__(self, catalogue: CatalogueReader, sessions: Sessions, clock: RedisClock) -> None:
        self._catalogue = catalogue
        self._sessions = sessions
        self._clock = clock
        self._param_headers = ParamHeaders()

    async def run(self, invocation: Invocation, on_notification: OnNotification) -> ExecutionResult:
        """Execute and never raise. A cancelled task ends in INVOCATION_CANCELLED."""
        begun = time.monotonic()
        left = self._clock.left(invocation.deadline)
        if left <= 0:
            # A timeout of no length would let everything run up to the first wait, and that is behind the sending.
            return failed(InvocationTimeout("the deadline had passed before the call began"))
        try:
            async with asyncio.timeout(left):
                result = await self._attempts(invocation, on_notification)
        except TimeoutError:
            result = failed(InvocationTimeout("the tool did not answer within the deadline"))
        except asyncio.CancelledError:
            result = failed(InvocationCancelled("the caller cancelled the request"))
        except RpcError as error:
            result = rpc_failure(error.error)
        except JsonRpcError as error:
            result = rpc_failure({"code": error.code, "message": error.message})
        except GatewayError as error:
            result = failed(error)
        except Exception:
            log.exception("invocation_broke", invocation=invocation.id, tool=invocation.tool)
            result = failed(InternalError("the worker failed; its log names the invocation"))
        return _timed(result, begun)

    async def _attempts(self, invocation: Invocation, on_notification: OnNotification) -> ExecutionResult:
        entry = self._entry(invocation)
        for last in (False, True):
            session = self._sessions.take(invocation, entry)
            try:
                return await self._call(session, entry, invocation, on_notification)
            except LinkLost as error:
                if last or not error.unsent:
                    raise
                log.info("session_replaced", tool=invocation.tool, reason=error.message)
                self._sessions.retire(session)
            finally:
                self._sessions.give(session)
        raise InternalError("unreachable: the second attempt returns or raises")

    def _entry(self, invocation: Invocation) -> Entry:
        entry = self._catalogue.get(invocation.tool)
        if entry is None:
            raise ToolNotFound(f"no tool {invocation.tool!r} is registered")
        if not entry.tool.enabled:
            raise ToolDisabled(f"tool {invocation.tool!r} is disabled")
        if invocation.version not in KNOWN_VERSIONS:
            raise InvalidRequest(
                f"version {invocation.version[:40]!r} is no known protocol revision", field="version"
            )
        return entry

    async def _call(
        self, session: ToolSession, entry: Entry, invocation: Invocation, on_notification: OnNotification
    ) -> ExecutionResult:
        started = time.monotonic()
        backend = await usable(session, self._clock.left(invocation.deadline))
        opened = time.monotonic()
        headers = self._param_headers.of(entry, invocation) if backend.routed_by_headers else NO_HEADERS
        raw = await backend.call(invocation, headers=headers, on_notification=on_notification)
        stages = {"session": (opened - started) * 1000, "backend": (time.monotonic() - opened) * 1000}
        return answer(translated(raw, invocation, backend), stages=stages)


def translated(raw: dict[str, Any], invocation: Invocation, backend: Backend) -> dict[str, Any]:
    """The result in the caller's era; untouched where backend and caller speak the same."""
    wanted = era_of_version(invocation.version)
    if wanted is backend.negotiated.era:
        return raw
    if wanted is Era.MODERN:
        return to_modern_result(invocation.method, raw, server_info=dict(backend.negotiated.server_info))
    return to_legacy_result(invocation.method, raw, invocation.version)


def _timed(result: ExecutionResult, begun: float) -> ExecutionResult:
    return ExecutionResult(
        status=result.status,
        result=result.result,
        failure=result.failure,
        duration_ms=(time.monotonic() - begun) * 1000,
        stages=result.stages,
    )
