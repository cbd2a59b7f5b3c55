"""Without any fault: the harness itself. Every call is answered, in both eras, over stdio and HTTP."""

from __future__ import annotations

from random import Random

import pytest

from tests.chaos.load import Call
from tests.chaos.plan import Plan, ToolPlan
from tests.chaos.scene import Scene

pytestmark = [pytest.mark.chaos_fast, pytest.mark.timeout(120)]

TOOLS = (
    ToolPlan(name="plain"),
    ToolPlan(name="web", http=True),
    ToolPlan(name="twice", fields={"retry": "safe"}),
)


def mix(chance: Random) -> Call:
    """Calls of four callers at three tools, some of whom nobody knows."""
    tool = chance.choice(TOOLS)
    return Call(
        tool=tool.name,
        leave=tool.leave,
        tenant=chance.choice(("acme", "umbra")),
        client=chance.choice("ab"),
        era=chance.choice(("modern", "legacy")),
        ms=chance.choice((0, 5, 200)),
        steps=chance.choice((0, 0, 3)),
    )


def test_nothing_is_wrong_where_nothing_breaks(scene: Scene) -> None:
    """300 calls: all answered, the invariants hold, and nothing is left."""
    scene.start(Plan(tools=TOOLS))
    scene.load.run(mix, rate=40, most=300)
    scene.answered_more(300)
    assert scene.load.call(Call(tool="plain", tenant="stranger", allowed=False)).code == "FORBIDDEN"
    history = scene.judge()
    assert scene.codes() == {"answered": 300, "FORBIDDEN": 1}
    assert len(history.got()) == 300
