"""The Python API. The web ingress is its first user, and has no other way to a tool."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from common.calls.call import Call
from common.domain.ids import ToolId
from common.domain.invocation import Caller, ExecutionResult
from common.domain.session import McpSession
from common.gateway.async_streams import AsyncCallStream
from common.gateway.async_verbs import AsyncVerbs
from common.gateway.streams import CallStream, with_progress
from common.readiness import Readiness
from common.settings import Settings, load
from common.store.client import StoreAddress, address_of

LOOK_AGAIN = 0.05


class CallOptions(TypedDict, total=False):
    """What may be said of a call beside what is asked."""

    timeout: float | None
    """Seconds for the whole call; it can only be shorter than the tool's own."""
    version: str
    """The revision of MCP in which the answer is to be; the newest legacy one by default."""
    request_id: str | int | None
    """A name for the call in the audit journal."""
    session: McpSession | None
    """The MCP session that the call is of, for whoever holds those."""


class Gateway(AsyncVerbs):
    """One process's door to the tools. Use as a context manager, or ``start`` and ``close``.

    Safe from any thread. Who calls is said with every call; policy, limits and the audit journal hold for it as for a
    client of the web ingress. A gateway that was closed stays closed.
    """

    def __init__(self, settings: Settings, address: StoreAddress, *, publish_tools: bool = False) -> None:
        """``publish_tools`` makes the registry hold the settings' tools, now and after Redis lost them."""
        super().__init__(settings, address, publish_tools=publish_tools)
        self._held: set[CallStream | AsyncCallStream] = set()

    @classmethod
    def open(
        cls, redis_url: str | None = None, *, config: Path | str | None = None, publish_tools: bool = False
    ) -> Self:
        """A gateway on the Redis of a cluster, with the settings that its programs have: not started yet.

        ``config`` is the settings file, by default the one that the environment names or the working directory holds;
        ``redis_url`` goes before what it says. ``publish_tools``: see above, for where no web process does it. Raises
        ``ConfigurationError``.
        """
        settings = load(None if config is None else Path(config), overrides={"redis.url": redis_url})
        return cls(settings, address_of(settings.redis), publish_tools=publish_tools)

    def close(self) -> None:
        """Let go of everything: calls under way in this API are taken back, threads end, connections are closed.

        Takes up to about 3 seconds if Redis is away. Once is enough; never raises.
        """
        if self._closed:
            return
        self._closed = True
        for stream in list(self._held):
            stream.abandon()
        self._end_threads()
        super().close()

    def wait_ready(self, timeout: float = 10.0) -> Readiness:
        """Wait until calls can be served, at most ``timeout`` seconds; how it stands then."""
        self._require_open()
        end = time.monotonic() + timeout
        while not (found := self.readiness()).ready and time.monotonic() < end:
            time.sleep(LOOK_AGAIN)
        return found

    # -- calls ------------------------------------------------------------------------------------------

    def invoke(
        self,
        caller: Caller,
        tool: str,
        method: str,
        params: Mapping[str, Any],
        **options: Unpack[CallOptions],
    ) -> ExecutionResult:
        """Make a call and wait for its end; refusals and faults are results too, nothing is raised for them.

        ``method`` and ``params`` are MCP's own: ``tools/call`` with ``name`` and ``arguments``, ``resources/read`` with
        ``uri``... If the wait is interrupted the call is taken back.
        """
        with self._stream(self._begin(caller, tool, method, params, options)) as stream:
            return stream.result()

    def invoke_stream(
        self,
        caller: Caller,
        tool: str,
        method: str,
        params: Mapping[str, Any],
        **options: Unpack[CallOptions],
    ) -> CallStream:
        """Make a call that tells of its progress: iterate over its events, then ask for its result.

        As :meth:`invoke`. Leaving the stream early, as a context manager or by ``close``, takes the call back.
        """
        return self._stream(self._begin(caller, tool, method, with_progress(params), options))

    async def ainvoke(
        self,
        caller: Caller,
        tool: str,
        method: str,
        params: Mapping[str, Any],
        **options: Unpack[CallOptions],
    ) -> ExecutionResult:
        """:meth:`invoke` for asyncio; no thread waits for it. A cancelled wait takes the call back."""
        async with self._async_stream(self._begin(caller, tool, method, params, options)) as stream:
            return await stream.result()

    def ainvoke_stream(
        self,
        caller: Caller,
        tool: str,
        method: str,
        params: Mapping[str, Any],
        **options: Unpack[CallOptions],
    ) -> AsyncCallStream:
        """:meth:`invoke_stream` for asyncio. The call begins when it is first waited for."""
        return self._async_stream(self._begin(caller, tool, method, with_progress(params), options))

    def _begin(
        self, caller: Caller, tool: str, method: str, params: Mapping[str, Any], options: CallOptions
    ) -> Callable[[], Call]:
        self._require_open()
        return lambda: self.begin(caller, ToolId(tool), method, params, **options)

    def _stream(self, begin: Callable[[], Call]) -> CallStream:
        stream = CallStream(begin, self._held.discard)
        if not stream.ended:
            self._keep(stream)
        return stream

    def _async_stream(self, begin: Callable[[], Call]) -> AsyncCallStream:
        stream = AsyncCallStream(begin, self._held.discard, self.threads)
        self._keep(stream)
        return stream

    def _keep(self, stream: CallStream | AsyncCallStream) -> None:
        self._held.add(stream)
        # Race: another thread closes the gateway, and has not seen this one.
        if self._closed:
            stream.abandon()
