"""The reaper's part in a node's end: a reaper that cannot be told must not end the worker."""

from __future__ import annotations

from typing import cast

from common.processes.guard import ProcessGuard, ProcessGuardError
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_worker.guarding import Guarding
from gateway_worker.node import Node


class Reaperless:
    """A guard whose reaper died, when there is no process to be had for another."""

    def last_words(self, _words: object) -> None:
        raise ProcessGuardError("no process")


def test_a_node_begins_anew_without_a_reaper() -> None:
    """It is told when it is replaced, which is tried all the time."""
    guard = cast("ProcessGuard", Reaperless())
    Guarding(guard, StoreAddress(url="redis://127.0.0.1:1/0"), Keys("test"), Node("test")).guard_node()
