"""How often a call makes web and worker process speak to Redis: at most twice and three times.

A round trip is a write whose answer is waited for. Each process has a way of its own to Redis, and each of its writes
is one piece that passes there: commands that leave together are one piece, and what waits for an answer cannot be in
the same piece as what comes after it. Writes that nobody waits for are counted as well, so that the count is never
below the round trips of calls one after the other; calls at the same time may share them. What an idle process writes
(beats, remote control: some pieces a second) counts as if it were for the calls; the bounds have room for it. Only the
fetcher's regular looks are taken off, by the time that has passed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Self

import hiredis
import httpx
import pytest

from common.store.scripts import script
from gateway_worker.fetcher import POLL
from tests.e2e.fault_rig import Rig, running_rig
from tests.support.mcp import RawClient, legacy, modern
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CALLS, WARMING = 200, 5
WEB_MOST, WORKER_MOST = 2, 3
SCRIPTS = {script(name).sha.encode(): name for name in ("admit", "fetch", "finish")}


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Web and worker, each with a way of its own to Redis."""
    with running_rig(tmp_path_factory.mktemp("r")) as rig:
        yield rig


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What the processes wrote while the calls ran."""

    web: list[list[str]]
    worker: list[list[str]]
    seconds: float

    @property
    def regular_looks(self) -> int:
        """The most fetches that nothing but the time had caused."""
        return int(self.seconds / POLL) + 2

    def __str__(self) -> str:
        kinds = [Counter("+".join(piece) for piece in side) for side in (self.web, self.worker)]
        return f"web {kinds[0]}, worker {kinds[1]}, in {self.seconds:.1f} s"


class Recording:
    """Collects on both ways until the block ends."""

    def __init__(self, rig: Rig) -> None:
        self._ways = (rig.web_way, rig.worker_way)

    def __enter__(self) -> Self:
        self.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for way in self._ways:
            way.written = None

    def clear(self) -> None:
        """Begin anew."""
        for way in self._ways:
            way.written = []

    @staticmethod
    def pieces(way: TcpProxy) -> list[bytes]:
        """What was written on one way so far."""
        assert way.written is not None
        return list(way.written)


def commands(piece: bytes) -> list[str]:
    """The commands of a piece by name, the scripts of the hot path by theirs."""
    if not piece.startswith(b"*"):
        return ["rest"]  # of a command that redis-py writes in several pieces, since it is long
    reader = hiredis.Reader()
    reader.feed(piece)
    found = []
    while (command := reader.gets()) is not False:
        name = command[0].decode().upper()
        found.append(SCRIPTS.get(command[1], name) if name == "EVALSHA" else name)
    return found


def call(http: httpx.Client, client: RawClient) -> None:
    """One call, answered; on connections that stay open, so that little time is left for beats."""
    message = client.message("tools/call", {"name": "echo", "arguments": {"text": "same"}})
    headers = client.sent_headers("tools/call", message["params"])
    answer = http.post(client.url, json=message, headers=headers).json()
    assert answer["result"]["content"][0]["text"] == "same"


def run(rig: Rig, client: RawClient, callers: int) -> Written:
    """Call after some calls that open what is opened once, so many at the same time."""
    with Recording(rig) as recording, ThreadPoolExecutor(callers) as pool, httpx.Client() as http:
        for _ in range(WARMING):
            call(http, client)
        recording.clear()
        begun = time.monotonic()
        list(pool.map(partial(call, http), [client] * CALLS))
        with rig.redis.client() as redis:
            wait_until(lambda: rig.unacked(redis) == 0, description="the last call to be acknowledged")
        seconds = time.monotonic() - begun
        return Written(
            web=[commands(piece) for piece in recording.pieces(rig.web_way)],
            worker=[commands(piece) for piece in recording.pieces(rig.worker_way)],
            seconds=seconds,
        )


def require_few(written: Written, calls: int) -> None:
    """The bounds of both processes."""
    assert len(written.web) <= WEB_MOST * calls, str(written)
    assert len(written.worker) - written.regular_looks <= WORKER_MOST * calls, str(written)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_a_call_takes_few_round_trips(rig: Rig, era: str) -> None:
    """One after the other, so that none shares a write with another: the web process asks once, the worker twice."""
    client = legacy(rig.url) if era == "legacy" else modern(rig.url)
    written = run(rig, client, callers=1)
    require_few(written, CALLS)
    assert sum("admit" in piece for piece in written.web) == CALLS, str(written)
    # A fetch for each call, and what ends a call in one write.
    fetches = sum("fetch" in piece for piece in written.worker)
    assert CALLS <= fetches <= CALLS + written.regular_looks, str(written)
    ends = [piece for piece in written.worker if "finish" in piece]
    assert len(ends) == CALLS, str(written)


def test_calls_at_the_same_time_take_no_more(rig: Rig) -> None:
    """Under load writes are shared: never more than one by one."""
    written = run(rig, legacy(rig.url), callers=4)
    require_few(written, CALLS)
    assert sum(piece.count("admit") for piece in written.web) == CALLS, str(written)


def test_the_bounds_see_what_is_too_much(rig: Rig) -> None:
    """The same writes held against fewer calls are too many: the count is of the calls, not of idle beats."""
    written = run(rig, legacy(rig.url), callers=1)
    with pytest.raises(AssertionError):
        require_few(written, CALLS // 3)
