"""What a tool offers, to the registry and back."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from common.domain.capabilities import Capabilities, capabilities_from_wire, capabilities_to_wire

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
NAMED = st.dictionaries(TEXT, TEXT, max_size=3)
CAPABILITIES = st.builds(
    Capabilities,
    tool_version=st.integers(0, 2**53),
    discovered_at=st.integers(0, 2**53),
    eras=NAMED,
    server_info=NAMED,
    server_capabilities=NAMED,
    instructions=st.none() | TEXT,
    tools=st.lists(NAMED, max_size=3).map(tuple),
    error=st.none() | TEXT,
    attempts=st.integers(0, 100),
    retry_at=st.integers(0, 2**53),
)


@given(CAPABILITIES)
def test_capabilities_survive_the_registry(capabilities: Capabilities) -> None:
    """Every field, byte for byte."""
    wire = capabilities_to_wire(capabilities)
    assert capabilities_from_wire(orjson.loads(orjson.dumps(wire))) == capabilities
