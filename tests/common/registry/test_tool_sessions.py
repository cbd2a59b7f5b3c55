"""The claims of tool sessions as they are read: whose each is, and what is said of one that nobody can read."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.domain.errors import StoreUnavailable
from common.domain.ids import ToolId, encode_part
from common.registry.tool_sessions import tool_session_claims
from common.store.client import Client, StoreAddress, connect
from common.store.keys import Keys

T = ToolId("a b/c")
IDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(IDS, min_size=2, max_size=3), IDS)
def test_ids_are_read_as_they_were_written(client: Client, keys: Keys, ids: list[str], node: str) -> None:
    """Whatever is in them; and the node's name may hold spaces."""
    client.delete(keys.sessions(T))
    client.hset(keys.sessions(T), ":".join(map(encode_part, ids)), f"{node} 12 34".encode())
    (claim,) = tool_session_claims(client, keys, T)
    assert [claim.tenant, claim.client, claim.mcp_session] == [*ids, None][:3]
    assert (claim.node, claim.fence) == (node, 12)


def test_a_claim_from_the_future_has_no_negative_age(client: Client, keys: Keys) -> None:
    """Redis' clock was set back."""
    client.hset(keys.sessions(T), "a:b", f"n 1 {10**15}")
    (claim,) = tool_session_claims(client, keys, T)
    assert claim.age == 0


def test_without_redis_it_fails_closed(keys: Keys) -> None:
    """With the error that says so."""
    client = connect(StoreAddress(url="unix:///nonexistent/redis.sock"))
    with pytest.raises(StoreUnavailable):
        tool_session_claims(client, keys, T)
    client.close()
