"""Each worker sees to it that somebody keeps the journal: one of them at a time starts the process that does."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from uuid import uuid4

import structlog

from common.audit.chain_store import LEASE
from common.domain.errors import StoreUnavailable
from common.settings import Settings
from common.store.client import StoreAddress, store_errors
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker.keeper_order import order_of

log = structlog.get_logger(__name__)

FIRST_LOOK = 3.0
"""Seconds, at least, after the start of a worker: it has more urgent business then."""
LOOK = 2.0
"""Seconds between two looks whether somebody keeps it; what a keeper's death costs is at most this and its lease."""
WATCH = 0.5
"""Seconds between two looks at the own process."""
AGAIN_FIRST, AGAIN_MAX = 1.0, 30.0
"""Seconds before a process that ended is replaced."""
LEAVE = 5.0
"""Seconds for it to end; then it is killed."""


class JournalKeeping:
    """Belongs to the engine's loop. Degrades: without a keeper events wait in Redis."""

    def __init__(
        self, settings: Settings, address: StoreAddress, redis: PipelinedConnection, keys: Keys
    ) -> None:
        self._settings = settings
        self._address = address
        self._redis = redis
        self._keys = keys
        self._owner = uuid4().hex

    async def run(self) -> None:
        """For ever."""
        await asyncio.sleep(FIRST_LOOK * (1 + random.random()))  # noqa: S311 - so that not all look at once
        delay = AGAIN_FIRST
        while True:
            try:
                wanted = await self._elected()
            except StoreUnavailable:
                wanted = False
            if wanted:
                try:
                    code = await self._kept()
                    log.warning("journal_keeper_ended", code=code, again_in=delay)
                except (OSError, RuntimeError) as error:
                    # There is no process or thread to be had; another worker may have more luck meanwhile.
                    log.warning("journal_keeper_not_started", cause=repr(error), again_in=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, AGAIN_MAX)
            else:
                delay = AGAIN_FIRST
            await asyncio.sleep(LOOK)

    async def _elected(self) -> bool:
        """Whether this worker is to start the process: nobody's lease runs, and now its own does."""
        with store_errors("looking for the journal's keeper"):
            return bool(
                await self._redis.run(
                    "audit_keep",
                    [self._keys.audit_lease, self._keys.audit_chain],
                    [self._owner, int(LEASE * 1000)],
                )
            )

    async def _kept(self) -> int:
        """Start the process, and wait for its end. Cancelled, it ends with the worker."""
        process = await asyncio.to_thread(self._start)
        try:
            while (code := process.poll()) is None:  # noqa: ASYNC110 - a process tells nobody
                await asyncio.sleep(WATCH)
            return code
        finally:
            # This is the loop's last business with it: the rest happens while the worker closes.
            _let_end(process)

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "gateway_worker.keeper_program", str(os.getpid())]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - ours
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            process.stdin.write(order_of(self._settings, self._address, self._owner))
            process.stdin.flush()
        except OSError:
            # It ended before it read its order; its exit code tells more than this.
            process.kill()
        return process


def _let_end(process: subprocess.Popen[bytes]) -> None:
    """Its input ends, and so does it."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(LEAVE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
