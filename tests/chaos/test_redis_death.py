"""C9: kill -9 of Redis under load, with each durability, also with the last second of its writes lost.

While it is away calls are refused with 503 and a code, none hangs; five seconds after its return calls are answered; no
call runs twice, whatever Redis has forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import pytest

from tests.chaos.load import Call
from tests.chaos.mixes import POOL, USUAL, everyday
from tests.chaos.plan import Plan
from tests.chaos.scene import Scene

SERVING_WITHIN = 5.0
REFUSED_WITHIN = 5.0
TOOLS = (*USUAL, POOL)
FORGOTTEN = ("SESSION_NOT_FOUND", "TOOL_NOT_FOUND", "INVOCATION_TIMEOUT")
"""Ends that Redis' forgetting explains: of MCP sessions, of the registry, of calls that were in its queues."""
AWAY = ("STORE_UNAVAILABLE", "unopened", "WORKER_LOST")
"""Ends that its absence explains."""
LATE, LONG = ("INVOCATION_TIMEOUT", "QUEUE_FULL"), 5.0
"""The end of a call that was queued right before an absence of so many seconds, and of those that came before it was
taken off: behind it workers fetch nothing for a while (3 s), and deadline and greatest age in the queue are 10 s."""

FAST = [("always", (1.0, 8.0), False), ("everysec", (1.0, 1.0), True), ("none", (1.0,), False)]
FULL = [
    (durability, (down,) * 20, lose)
    for durability in ("always", "everysec", "none")
    for down in (1.0, 8.0)
    for lose in (False, True)
    if durability != "none" or not lose
]


def case(durability: str, downs: Sequence[float], lose: bool, *marks: pytest.MarkDecorator) -> object:
    """One case with a name that tells what it is."""
    name = f"{durability}-{max(downs):g}s{'-lost-writes' if lose else ''}-{len(downs)}"
    return pytest.param(durability, downs, lose, id=name, marks=marks)


CASES = [
    *(case(*fast, pytest.mark.chaos_fast, pytest.mark.timeout(150)) for fast in FAST),
    *(case(*full, pytest.mark.chaos_full, pytest.mark.timeout(1500)) for full in FULL),
]


@pytest.mark.parametrize(("durability", "downs", "lose"), CASES)
def test_redis_dies(
    scene: Scene, chance: Random, durability: str, downs: Sequence[float], lose: bool
) -> None:
    """Under load, away for so many seconds each time."""
    cluster = scene.start(Plan(tools=TOOLS, durability=durability))
    scene.load.run(everyday(TOOLS), rate=30)
    scene.answered_more(40)
    for down in downs:
        cluster.redis_restart(down=down, lose=lose)
        back = time.monotonic()
        assert scene.load.call(Call(tool="plain", client="probe", deadline=10.0)).seconds < SERVING_WITHIN
        scene.answered_more(5, timeout=SERVING_WITHIN)
        assert time.monotonic() - back < SERVING_WITHIN, "calls were not answered soon enough"
        scene.answered_more(30 + chance.randrange(60))
    history = scene.judge()
    late = LATE if max(downs) >= LONG else ()
    scene.expect_codes(*AWAY, *late, *(FORGOTTEN if lose or durability == "none" else ()))
    slow = [
        end
        for end in history.ended
        if end.code == "STORE_UNAVAILABLE" and not end.unknown and end.seconds > REFUSED_WITHIN
    ]
    assert not slow, f"refusals that took long: {slow[:3]}"
