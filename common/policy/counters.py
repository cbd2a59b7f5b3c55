"""How much is going on, for evaluators that ask for it."""

from __future__ import annotations

from common.domain.ids import TenantId, ToolId, queue_of
from common.domain.policy import Counters
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.shared import SharedConnection


class CounterReader:
    """Asks Redis, which costs a round trip."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def read(self, tenant: TenantId, tool: ToolId) -> Counters:
        """What a call of a tenant's would find at a tool. Raises :class:`StoreUnavailable`."""
        queue = queue_of(tool)
        keys = [self._keys.calls(queue), queue, self._keys.tenant_sessions(tenant)]
        with store_errors("reading how much is going on"):
            held, waiting, sessions = self._connection.run("policy_counters", keys)
        return Counters(tool_calls=held, tool_waiting=waiting, tenant_sessions=sessions)
