"""What a refused change leaves in Redis: nothing, but that it was refused."""

from __future__ import annotations

from common.audit.journal import Journal
from common.store.client import Client
from common.store.keys import Keys


def assert_unchanged(client: Client, keys: Keys) -> None:
    """The journal may tell of the refusal; beside it nothing was written."""
    assert {key if isinstance(key, str) else key.decode() for key in client.scan_iter()} <= {keys.audit}
    assert {record.kind for record in Journal(client, keys).newest(9)} <= {"admin_refused"}
