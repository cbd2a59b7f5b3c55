"""A release that writes new forms of messages and definitions comes under load; an older worker is left beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.chaos.mixes import USUAL, everyday
from tests.chaos.plan import SOURCE, Plan
from tests.chaos.scene import Scene
from tests.chaos.test_upgrade import roll
from tests.support.wait import wait_until

PACKAGES = ("common", "gateway_web", "gateway_worker")
INVOCATION, MESSAGE, RECORDS = (
    "common/domain/invocation.py",
    "gateway_worker/message.py",
    "common/registry/records.py",
)
EDITS = (
    (INVOCATION, '"v": WIRE_VERSION,\n        "id"', '"v": 2,\n        "id"'),
    (INVOCATION, 'check_format(wire, WIRE_VERSION, what="the inv', 'check_format(wire, 2, what="the inv'),
    (MESSAGE, "check_format(argument, WIRE_VERSION, what", "check_format(argument, 2, what"),
    (RECORDS, '{"origin": origin.value,', '{"v": 2, "origin": origin.value,'),
    (RECORDS, "check_format(record, what", "check_format(record, 2, what"),
)
"""What makes a tree the newer release: it writes calls and definitions of version 2, and reads those of 1."""


def newer(home: Path) -> Path:
    """A copy of the tree, a release on."""
    tree = home / "newer"
    for package in PACKAGES:
        shutil.copytree(SOURCE / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in EDITS:
        text = (tree / file).read_text()
        assert text.count(old) == 1, f"{file}: {old}"
        (tree / file).write_text(text.replace(old, new))
    return tree


@pytest.mark.chaos_fast
@pytest.mark.timeout(240)
def test_a_newer_form_is_never_misread_and_nothing_is_lost(scene: Scene) -> None:
    """Workers first, then web processes. A worker that is put back to the older release serves nothing and says why."""
    tree = newer(scene.home)
    cluster = scene.start(Plan(tools=USUAL))
    scene.load.run(everyday(longest=1000), rate=15)
    scene.answered_more(20)
    roll(scene, [*cluster.workers, *cluster.webs], tree)
    # Who publishes the file's tools writes them anew if they are others: as an operator does when all are upgraded.
    config = scene.home / "canalgate.yaml"
    config.write_text(config.read_text().replace("idle_timeout: 300.0", "idle_timeout: 301.0"))
    for web in cluster.webs:
        web.reload()
    with cluster.client() as client:
        wait_until(
            lambda: all(
                b'"v":2' in record for record in client.hgetall(cluster.keys.registry_tools).values()
            ),
            timeout=20,
            description="the definitions to be of the new form",
        )
    older = cluster.workers[1]
    roll(scene, [older], SOURCE)
    scene.answered_more(40)
    log = older.log.read_text()
    assert "tool_unreadable" in log
    assert "is of version 2" in log
    assert "reads version 1" in log
    scene.judge()
    scene.expect_codes()
