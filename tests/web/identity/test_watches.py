"""Streams and the thread that looks at their credentials."""

from __future__ import annotations

import threading

import pytest

from common.domain.errors import Unauthenticated
from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from common.ports import RequestFacts
from gateway_web.identity import watches
from tests.web.identity.support import facts, no_thread_once

CALLER = Caller(tenant=TenantId("t"), client=ClientId("c"))


def test_a_thread_that_cannot_be_had_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that wanted it ends unwatched; the next one ends with its credential."""

    def recognise(_: RequestFacts) -> Caller:
        raise Unauthenticated("it is good no more")

    found, refused, ended = watches.Watches(recognise, 60), threading.Event(), threading.Event()
    no_thread_once(monkeypatch, watches)
    with pytest.raises(RuntimeError, match="thread"):
        found.add(facts({}), CALLER, refused.set)
    assert refused.is_set()
    assert len(found) == 0
    found.add(facts({}), CALLER, ended.set)
    found.call()
    assert ended.wait(10)
    found.call()  # nothing is left to look at: the thread ends
