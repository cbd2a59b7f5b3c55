"""An operator's orders to all workers: forget the credentials that are kept, or build sessions with new ones.

They stand in a stream that each worker reads once a second, and at once when told to; who was away reads on where it
was. Done twice they do no harm.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from common.audit.journal import audit_command
from common.domain.audit import AuditEvent, EventKind
from common.domain.errors import ToolNotFound
from common.domain.ids import TenantId, ToolId, checked_id
from common.store.client import Client, store_errors
from common.store.keys import Keys

MOST_ORDERS = 1000


class Verb(StrEnum):
    """What is to be done."""

    FLUSH = "flush"
    """Forget what providers answered; a session whose credentials turn out to be others is built anew."""
    ROTATE = "rotate"
    """The same, and build the sessions anew whatever the providers answer."""


class Order(NamedTuple):
    """For which tool and tenant; None: for all of them."""

    verb: Verb
    tool: ToolId | None = None
    tenant: TenantId | None = None


class CredentialOrders:
    """The operator's side. Fails closed: without Redis each method raises ``StoreUnavailable``, and nothing is ordered.

    ``actor`` is what the audit journal is told of who gave the order. For a tool that is not registered they raise
    :class:`ToolNotFound`, for a name that can be nobody's :class:`InvalidRequest`: an empty one is not everybody.
    """

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def flush(self, *, tool: ToolId | None = None, tenant: TenantId | None = None, actor: str) -> None:
        """Have all workers ask their providers anew."""
        self._give(Order(Verb.FLUSH, tool, tenant), EventKind.CREDENTIALS_FLUSHED, actor)

    def rotate(self, *, tool: ToolId | None = None, tenant: TenantId | None = None, actor: str) -> None:
        """Have all workers ask their providers anew, and build new sessions: calls under way end on the old ones."""
        self._give(Order(Verb.ROTATE, tool, tenant), EventKind.CREDENTIALS_ROTATED, actor)

    def _give(self, order: Order, kind: EventKind, actor: str) -> None:
        for field, name in (("tool", order.tool), ("tenant", order.tenant)):
            if name is not None:
                checked_id(name, field=field)
        keys = self._keys
        event = AuditEvent(kind=kind, actor=actor, tool=order.tool or "", tenant=order.tenant or "")
        with store_errors("giving an order about credentials"):
            if order.tool is not None and not self._client.hexists(keys.registry_tools, order.tool):
                raise ToolNotFound(f"no tool {order.tool!r} is registered")
            with self._client.pipeline(transaction=True) as pipe:
                pipe.execute_command(  # type: ignore[no-untyped-call]
                    *("XADD", keys.credential_orders, "MAXLEN", "~", MOST_ORDERS, "*", *_fields(order))
                )
                pipe.execute_command(*audit_command(keys, event))  # type: ignore[no-untyped-call]
                pipe.publish(keys.registry_channel, b"credentials")
                pipe.execute()


def _fields(order: Order) -> list[str]:
    named = (("verb", order.verb.value), ("tool", order.tool), ("tenant", order.tenant))
    return [part for name, value in named if value is not None for part in (name, value)]


def order_of(fields: list[bytes]) -> Order | None:
    """The order in an entry of the stream; None for a verb of a newer writer."""
    found: dict[str, Any] = {
        name.decode(): value.decode() for name, value in zip(fields[::2], fields[1::2], strict=True)
    }
    if found.get("verb") not in set(Verb):
        return None
    return Order(Verb(found["verb"]), found.get("tool"), found.get("tenant"))
