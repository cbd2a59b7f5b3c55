"""Keeping the journal, in the process that does (:mod:`gateway_worker.keeper_program`)."""

from __future__ import annotations

import os
import signal
import sys
import threading
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


def keep() -> int:
    """Keep the journal until the input ends, a signal comes, or another process keeps it; the exit code."""
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
    threading.Thread(target=_until_input_ends, args=(end,), daemon=True, name="input").start()
    return 0 if keeper.run() else GIVEN_UP


def _until_input_ends(end: Callable[[], object]) -> None:
    sys.stdin.buffer.read()
    end()
