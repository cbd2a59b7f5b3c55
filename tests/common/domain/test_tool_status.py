"""How a tool stands: the operator's word before the definition's, and both before the probe's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.health import Health
from common.domain.ids import ToolId
from common.domain.tool import StdioTransport, Tool, ToolState
from common.domain.tool_status import (
    UNTOUCHED,
    OperatorState,
    StateChange,
    Switch,
    is_enabled,
    operator_from_wire,
    operator_to_wire,
    runs_calls,
    shown_state,
)

TOOL = Tool(id=ToolId("t"), transport=StdioTransport(command="c"))
OFF = TOOL.with_state(ToolState.DISABLED)
GRADES = [ToolState.ENABLED, ToolState.DEGRADED, ToolState.UNAVAILABLE]
STATES = st.builds(
    OperatorState,
    switch=st.none() | st.sampled_from(Switch),
    draining=st.booleans(),
    retiring=st.booleans(),
    since=st.integers(0, 2**53),
    by=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20),
)


@given(STATES)
def test_a_state_survives_the_registry(state: OperatorState) -> None:
    """Every field."""
    assert operator_from_wire(orjson.loads(orjson.dumps(operator_to_wire(state)))) == state


@pytest.mark.parametrize(
    ("tool", "switch", "enabled"),
    [
        (TOOL, None, True),
        (OFF, None, False),
        (TOOL, Switch.OFF, False),
        (OFF, Switch.OFF, False),
        (TOOL, Switch.ON, True),
        (OFF, Switch.ON, True),
    ],
)
def test_the_operator_s_word_goes_before_the_definition_s(
    tool: Tool, switch: Switch | None, enabled: bool
) -> None:
    """Without one the definition says it."""
    assert is_enabled(tool, OperatorState(switch=switch)) is enabled


@pytest.mark.parametrize("draining", [True, False])
@pytest.mark.parametrize("grade", GRADES)
def test_no_probe_overrides_disabled(grade: ToolState, draining: bool) -> None:
    """Nor does a drain: it is told beside the state."""
    health = Health(grade=grade, latency_ms=1, at=1, since=1)
    for switched_off in ((OFF, OperatorState(draining=draining)), (TOOL, OperatorState(switch=Switch.OFF))):
        assert shown_state(*switched_off, health) is ToolState.DISABLED
    assert shown_state(TOOL, OperatorState(draining=draining), health) is grade
    assert shown_state(OFF, OperatorState(switch=Switch.ON), health) is grade


def test_a_retiring_tool_takes_no_calls_and_runs_those_it_has() -> None:
    """Unless it is switched off: then it runs none."""
    retiring = OperatorState(retiring=True)
    assert (is_enabled(TOOL, retiring), runs_calls(TOOL, retiring)) == (False, True)
    assert shown_state(TOOL, retiring, None) is ToolState.DISABLED
    assert not runs_calls(TOOL, OperatorState(retiring=True, switch=Switch.OFF))


def test_a_tool_that_nobody_probes_is_as_it_is_switched() -> None:
    """No grade is no bad grade."""
    assert shown_state(TOOL, UNTOUCHED, None) is ToolState.ENABLED


def test_what_a_newer_writer_has_added_is_left_out() -> None:
    """And what an older one did not know has its default."""
    assert operator_from_wire({"switch": "off", "draining": True, "mood": "bad"}) == OperatorState(
        switch=Switch.OFF, draining=True
    )


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"switch": None},
        {"draining": False},
        {"switch": "paused", "draining": False},
        {"switch": True, "draining": False},
        {"switch": None, "draining": "false"},
        {"switch": None, "draining": None},
        {"switch": None, "draining": False, "since": "noon"},
        [],
        "off",
    ],
)
def test_what_is_no_state_is_refused(wire: Any) -> None:
    """Fails closed: it may have been the word that switched the tool off."""
    with pytest.raises((LookupError, TypeError, ValueError)):
        operator_from_wire(wire)


def test_a_change_knows_whether_it_is_one() -> None:
    """Two equal states are none."""
    assert StateChange(before=UNTOUCHED, after=OperatorState(draining=True)).changed
    assert not StateChange(before=OperatorState(since=1), after=OperatorState(since=1)).changed
