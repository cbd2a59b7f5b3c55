"""Two versions side by side under load: each program in turn is another version's, there and back, and nothing is lost.

``make upgrade AGAINST=<git ref>`` puts the other version into a tree that ``UPGRADE_TREE`` names.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.mixes import USUAL, everyday
from tests.chaos.plan import SOURCE, Plan
from tests.chaos.program import Program
from tests.chaos.scene import Scene

OTHER = os.environ.get("UPGRADE_TREE", "")
DRAINED_WITHIN = 35.0
pytestmark = [
    pytest.mark.chaos_full,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not OTHER, reason="make upgrade AGAINST=<git ref> names another version"),
]


def test_two_versions_side_by_side_lose_nothing(scene: Scene) -> None:
    """Workers first, as documented, back, and web processes first: in each mixture every call is answered once.

    The journal of all of it is one chain, and complete: it is looked at with the rest of the history.
    """
    other = Path(OTHER)
    plan = Plan(tools=USUAL, source=other, also=(SOURCE,))
    cluster = scene.start(plan)
    scene.load.run(everyday(longest=2000), rate=15)
    scene.answered_more(30)
    webs, workers = cluster.webs, cluster.workers
    for step, (tree, programs) in enumerate(
        [
            (SOURCE, [*workers, *webs]),
            (other, [*webs, *workers]),
            (SOURCE, [*webs, *workers]),
        ]
    ):
        roll(scene, programs, tree)
        print(f"round {step}: all from {tree.name}; {scene.load.answered} calls answered so far")
    scene.judge()
    scene.expect_codes()


def roll(scene: Scene, programs: Sequence[Program], tree: Path) -> None:
    """Stop each, and start it from the tree; beside the others of the other version calls go on."""
    cluster = scene.cluster
    for program in programs:
        status = program.terminate(timeout=DRAINED_WITHIN)
        assert status in (0, -15), f"{program.name} ended with {status}"
        cluster.move(program, tree)
        cluster.start_again(program)
        cluster.wait_ready()
        scene.answered_more(20)
