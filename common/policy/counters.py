"""How much is going on, for evaluators that ask for it."""

from __future__ import annotations

from collections.abc import Sequence

from common.domain.ids import TenantId, ToolId, queue_of
from common.domain.policy import Counters
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection


def counters_script(keys: Keys, tenant: TenantId, tool: ToolId) -> tuple[str, list[str]]:
    """The script that reads them, and its keys; :func:`counters_of` reads its answer."""
    queue = queue_of(tool)
    return "policy_counters", [keys.calls(queue), queue, keys.tenant_sessions(tenant)]


def counters_of(answer: Sequence[int]) -> Counters:
    """What ``policy_counters.lua`` answered."""
    held, waiting, sessions = answer
    return Counters(tool_calls=held, tool_waiting=waiting, tenant_sessions=sessions)


class CounterReader:
    """Asks Redis, which costs a round trip."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def read(self, tenant: TenantId, tool: ToolId) -> Counters:
        """What a call of a tenant's would find at a tool. Raises :class:`StoreUnavailable`."""
        with store_errors("reading how much is going on"):
            return counters_of(self._connection.run(*counters_script(self._keys, tenant, tool)))
