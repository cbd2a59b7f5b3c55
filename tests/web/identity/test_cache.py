"""What is remembered of good credentials: for a bounded time, in a bounded number, and not themselves."""

from __future__ import annotations

import gc

from common.domain.ids import ClientId, TenantId
from common.domain.invocation import Caller
from gateway_web.identity.cache import CredentialCache

ONE, TWO = (Caller(tenant=TenantId("t"), client=ClientId(name)) for name in ("one", "two"))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_caller_is_remembered_for_its_time() -> None:
    """And not a moment longer than it is good itself."""
    clock = Clock()
    cache = CredentialCache(5, clock=clock)
    cache.put("a", ONE)
    cache.put("b", TWO, longest=2)
    clock.now = 1.9
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (ONE, TWO, None)
    clock.now = 2.0
    assert (cache.get("a"), cache.get("b")) == (ONE, None)
    clock.now = 5.0
    assert cache.get("a") is None
    assert len(cache) == 0


def test_another_generation_forgets() -> None:
    """Whatever was found out before counts for nothing."""
    cache = CredentialCache(5, clock=Clock())
    cache.put("a", ONE, generation=1)
    assert cache.get("a", 1) == ONE
    assert cache.get("a", 2) is None
    assert cache.get("a", 1) is None


def test_nothing_is_remembered_that_is_over() -> None:
    """Nor without a time to remember it for."""
    cache = CredentialCache(5, clock=Clock())
    for longest in (0, -1):
        cache.put("a", ONE, longest=longest)
    off = CredentialCache(0)
    off.put("a", ONE)
    assert (len(cache), len(off)) == (0, 0)


def test_the_one_that_was_used_the_longest_ago_goes() -> None:
    """At the bound."""
    cache = CredentialCache(5, most=2, clock=Clock())
    cache.put("a", ONE)
    cache.put("b", ONE)
    cache.get("a")
    cache.put("c", TWO)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (ONE, None, TWO)


def test_no_credential_is_kept() -> None:
    """What could be found in a core dump is its digest under a key of the process."""
    cache = CredentialCache(5)
    cache.put("".join(["hunter", "2"]), ONE)
    held = gc.get_referents(cache._found)
    assert not any("hunter2" in str(part) for part in held)
    assert cache._found.keys() != CredentialCache(5)._found.keys()
