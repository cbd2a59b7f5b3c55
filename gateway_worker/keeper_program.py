"""The process that keeps the journal: ``python -m gateway_worker.keeper_program``, started by a worker.

A process and not a thread of the worker, so that sealing and slow sinks take nothing from the calls. What it needs
comes as one line of JSON on standard input, since there are secrets in it. When that input ends, the worker has.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import structlog

from common.audit.keeper import Keeper
from common.audit.rules import Rules
from common.audit.sinks import make_sink
from common.audit.spill import Spill
from common.domain.errors import ConfigurationError
from common.logs import configure as configure_logs
from common.settings import LoggingSettings
from common.settings.audit import AuditSettings
from common.settings.egress import EgressSettings
from common.store.client import StoreAddress, connect
from common.store.keys import Keys

log = structlog.get_logger(__name__)

GIVEN_UP, UNUSABLE = 3, 4
"""Exit codes: another keeps the journal by now; a sink cannot be made."""
FORCED_AFTER = 10.0
"""Seconds after which a process that was told to end does so whatever hangs."""
ORPHANED_AFTER = 1.0
"""The same where the worker has died. What was not sealed or delivered by then the next keeper does."""
LOOK = 0.05
"""Seconds between two looks at whether the worker still lives."""


def keeper_of(order: Mapping[str, Any]) -> Keeper:
    """The keeper that an order asks for. Raises :class:`ConfigurationError` if a sink cannot be made."""
    audit = AuditSettings.model_validate(order["audit"])
    address = StoreAddress(
        url=order["url"], connect_timeout=order["connect_timeout"], socket_timeout=order["socket_timeout"]
    )
    rules = EgressSettings.model_validate(order["egress"]).rules
    key = audit.chain_key.get_secret_value().encode() if audit.chain_key else b""
    return Keeper(
        lambda: connect(address, size=2),
        Keys(order["prefix"]),
        {sink.name: make_sink(sink, rules) for sink in audit.sinks},
        Rules(most=audit.max_backlog, key=key),
        owner=order["owner"],
        spill=Spill(Path(audit.spill_dir)) if audit.overflow == "spill" and audit.spill_dir else None,
    )


def main() -> int:
    """Keep the journal until the input ends, a signal comes, or another process keeps it."""
    # The worker decides when it ends: a terminal's Ctrl-C goes to all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order: dict[str, Any] = orjson.loads(sys.stdin.buffer.readline())
    configure_logs(LoggingSettings.model_validate(order["logging"]), process=f"keeper-{os.getpid()}")
    try:
        keeper = keeper_of(order)
    except ConfigurationError as error:
        log.error("journal_not_kept", error=error.message)
        return UNUSABLE

    def end(*_: object) -> None:
        keeper.stop()
        forced = threading.Timer(FORCED_AFTER, os._exit, (1,))
        forced.daemon = True
        forced.start()

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_until_input_ends, args=(end, os.getppid()), daemon=True, name="input").start()
    return 0 if keeper.run() else GIVEN_UP


def _until_input_ends(end: Callable[[], object], worker: int) -> None:
    """A worker that ends in order waits for this process; one that died leaves nothing behind that lives on."""
    sys.stdin.buffer.read()
    ended = time.monotonic()
    end()
    while os.getppid() == worker or time.monotonic() < ended + ORPHANED_AFTER:
        time.sleep(LOOK)
    os._exit(1)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # A sink that hangs in its thread must not hold the process.
    os._exit(code)
