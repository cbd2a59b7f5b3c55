"""A seed for every run, a place for its files, and a verdict on its history.

``CHAOS_SEED`` repeats a run (``make chaos SEED=n``), ``CHAOS_KEEP`` is where the files of failed tests go,
``CHAOS_SOURCE`` the tree whose gateway is tried.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.chaos.scene import Scene

SEED = os.environ.get("CHAOS_SEED") or str(secrets.randbelow(10**6))
KEEP = Path(os.environ.get("CHAOS_KEEP", Path(tempfile.gettempdir()) / "canalgate-chaos"))
_failed = pytest.StashKey[bool]()


def pytest_report_header() -> str:
    """Say how to repeat this run."""
    return f"chaos seed: {SEED} (make chaos SEED={SEED} repeats it)"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember whether the test failed, for whoever cleans up behind it."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        item.stash[_failed] = True


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> str:
    """The seed of this test: the run's, and its own name."""
    return f"{SEED}:{request.node.nodeid}"


@pytest.fixture
def chance(seed: str) -> Random:
    """Chance that can be repeated."""
    return Random(seed)  # noqa: S311


@pytest.fixture
def scene(request: pytest.FixtureRequest, seed: str) -> Iterator[Scene]:
    """Where the test's cluster runs. Its files are kept if the test fails."""
    home = Path(tempfile.mkdtemp(prefix="cgc-", dir="/tmp"))  # short: there are sockets in it
    with ExitStack() as stack:
        scene = Scene(home, seed, stack)
        try:
            yield scene
        finally:
            failed = request.node.stash.get(_failed, False)
            if failed:
                scene.keep_dump()
            stack.close()
            if failed:
                _keep(home, request.node.name)
            shutil.rmtree(home, ignore_errors=True)


def _keep(home: Path, name: str) -> None:
    place = KEEP / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{SEED}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(home, place, ignore=lambda _, names: [name for name in names if name == "s"])
    print(f"\nchaos seed {SEED}: logs, history and the Redis dump are in {place}")
