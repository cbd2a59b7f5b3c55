"""Policy for calls that did not pass a web process: what a stock Celery producer sends runs under the same rules."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from contextvars import copy_context
from functools import partial

from common.control.reload import Commit
from common.domain.egress import EgressRules
from common.domain.errors import StoreUnavailable
from common.domain.ids import TenantId, ToolId
from common.domain.invocation import Invocation
from common.domain.policy import Counters
from common.policy.judge import Judge
from common.settings import PolicySettings
from common.settings.changes import SettingsChanges
from gateway_worker.journey import Journey

THREADS = 16
"""Calls about which evaluators are asked at a time."""
COUNTERS_WITHIN = 5.0
"""Seconds in which Redis has to say how much is going on."""


class Judging:
    """Belongs to the engine's loop; evaluators are asked beside it."""

    def __init__(self, settings: PolicySettings, egress: EgressRules, journey: Journey) -> None:
        """Raises :class:`ConfigurationError` for an evaluator that cannot be made."""
        self._loop = asyncio.get_running_loop()
        self._journey = journey
        # Of its own: the registry is read and processes looked for in the loop's, which slow evaluators would fill.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="policy")
        self._judge = Judge(settings, egress, self._counters)

    def prepare(self, changes: SettingsChanges) -> Commit | None:
        """What lets other settings judge. Raises :class:`ConfigurationError`."""
        if "policy" not in changes.sections:
            return None
        settings, counts = changes.settings, self._judge.counts
        judge = Judge(settings.policy, settings.egress.rules, self._counters, counts)

        def commit() -> None:
            replaced, self._judge = self._judge, judge
            replaced.retire()

        return commit

    @property
    def wanted(self) -> bool:
        """Whether there is anything to ask about any call."""
        return self._judge.wanted

    async def authorise(self, invocation: Invocation, *, left: float) -> None:
        """Let a call pass that has ``left`` seconds, or raise :class:`PolicyDenied`.

        Raises :class:`StoreUnavailable` if the evaluator wants counters, and there are none.
        """
        asked = partial(
            copy_context().run,
            self._judge.authorise,
            invocation.caller,
            invocation.tool,
            invocation.method,
            invocation.params,
            request_id=invocation.request_id,
            left=left,
        )
        await self._loop.run_in_executor(self._threads, asked)

    def _counters(self, tenant: TenantId, tool: ToolId) -> Counters:
        """Called in another thread."""
        asked = asyncio.run_coroutine_threadsafe(self._journey.counters(tenant, tool), self._loop)
        try:
            return asked.result(COUNTERS_WITHIN)
        except NotInTime:
            raise StoreUnavailable("Redis does not say how much is going on") from None
