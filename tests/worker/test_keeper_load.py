"""Many events through one keeper: neither its memory nor that of Redis grows with them.

``make audit-load`` sends 1,000,000; else it is 20,000.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from common.audit.chain_store import ChainStore
from common.domain.audit_chain import Position
from common.settings import Settings
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from gateway_worker.keeper_order import order_of
from tests.common.audit.chains import head_of, write_events
from tests.support.wait import wait_until

FULL = bool(os.environ.get("AUDIT_LOAD_FULL"))
EVENTS = 1_000_000 if FULL else 20_000
BACKLOG = 50_000 if FULL else 5_000
"""``audit.max_backlog``: what Redis holds besides is what the sinks have not got."""
CHUNK = 2_500
WARM = 2 * BACKLOG
"""After so many whatever is made once is there, and the journal is as long as it gets."""
MOST_GROWTH = 24 * 1024 * 1024
"""Bytes by which the keeper may still grow; 1,000,000 events are some 500 MB."""
MOST_REDIS = 16 * 1024 * 1024

pytestmark = pytest.mark.timeout(1200 if FULL else 120)


def test_memory_does_not_grow_with_the_number_of_events(
    client: Client, keys: Keys, address: StoreAddress, tmp_path: Path
) -> None:
    """Of the keeper, and of Redis; and the sink has every one of them."""
    options = {"path": str(tmp_path / "audit.ndjson"), "rotate_bytes": 1 << 22, "keep_files": 2}
    settings = Settings.model_validate(
        {
            "redis": {"key_prefix": keys.prefix},
            "audit": {"max_backlog": BACKLOG, "sinks": [{"type": "file", "name": "f", "options": options}]},
        }
    )
    program = [sys.executable, "-m", "gateway_worker.keeper_program", str(os.getpid())]
    with subprocess.Popen(program, stdin=subprocess.PIPE, start_new_session=True) as keeper:
        assert keeper.stdin is not None
        keeper.stdin.write(order_of(settings, address, "me"))
        keeper.stdin.flush()
        figures = _written(client, keys, psutil.Process(keeper.pid))
        last = head_of(client, keys)
        assert last.seq == EVENTS
        wait_until(
            lambda: _safe(client, keys) == last.seq, timeout=60, description="the sink to have every event"
        )
        keeper.stdin.close()
        assert keeper.wait(20) == 0
    warm = [figure for written, *figure in figures if written <= WARM][-1]
    most = [max(figure[place] for _, *figure in figures) for place in (0, 1)]
    for name, before, after in zip(("keeper's resident set", "Redis' memory"), warm, most, strict=True):
        print(
            f"{EVENTS:,} events, {name}: {before / 2**20:.1f} MiB after {WARM:,}, {after / 2**20:.1f} at most"
        )
    assert most[0] - warm[0] < MOST_GROWTH
    assert most[1] - warm[1] < MOST_REDIS
    assert client.xlen(keys.audit) <= BACKLOG


def _written(client: Client, keys: Keys, keeper: psutil.Process) -> list[tuple[int, int, int]]:
    """Write all, as fast as they are sealed; how many there were each time, the keeper's memory and that of Redis."""
    found = []
    for first in range(0, EVENTS, CHUNK):
        write_events(client, keys, CHUNK, first=first)
        done = first + CHUNK
        wait_until(
            lambda done=done: head_of(client, keys).seq == done and client.xlen(keys.audit) <= BACKLOG,  # type: ignore[misc]
            timeout=30,
            description="what was written to be sealed, and what is too much trimmed",
        )
        found.append((done, keeper.memory_info().rss, int(client.info("memory")["used_memory"])))
    return found


def _safe(client: Client, keys: Keys) -> int:
    place: Position | None = ChainStore(client, keys).state().sinks.get("f")
    return 0 if place is None else place.seq
