"""What tests of twins share: Lua scripts on the real Redis, at a time that the test decides.

A rule that Redis decides exists twice: as a pure state machine in ``common/domain``, and as a script. A test of the
twins drives both with the same random steps and holds them equal after each. Scripts read their time from Redis
alone, so here that one read is replaced by the read of a key the test writes. A test looks like this::

    class Twins(RuleBasedStateMachine):
        def __init__(self, client: Client) -> None:
            super().__init__()
            self.time = ForcedTime(client)
            self.pure = Lease()

        @rule(ms=TIME_PASSES)
        def time_passes(self, ms: int) -> None:
            self.time.pass_by(ms)

        @rule(node=st.sampled_from(NODES))
        def takes(self, node: str) -> None:
            self.pure, expected = take(self.pure, node, now=self.time.now)
            assert self.time.run("lease_take", [KEY], [node, 8000], clock_reads=1) == expected

        @invariant()
        def equal(self) -> None:
            assert lease_from_redis(self.client.hgetall(KEY)) == self.pure

    @pytest.mark.timeout(TWIN_TIMEOUT)
    def test_twins(client: Client) -> None:
        run_state_machine_as_test(lambda: Twins(client), settings=twin_settings())

Each example begins on an empty database (:class:`ForcedTime` empties it), so a machine must be made before it writes.
What cannot be forced is Redis' own expiry (``PEXPIRE``, ``SET ... PX``): it runs by the real clock. Rules that depend
on it have no twin of this kind; keys that merely expire some day are no hindrance, examples being short.

``CANALGATE_TWIN_EXAMPLES`` sets the number of examples; `make twins` takes 5,000.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from common.store.client import Client
from common.store.scripts import Arg, script

EXAMPLES = int(os.environ.get("CANALGATE_TWIN_EXAMPLES", "100"))
TWIN_TIMEOUT = 60 + EXAMPLES
"""Seconds for ``pytest.mark.timeout``: far above what is needed, however many examples are wanted."""
BEGINNING = 1_800_000_000_000
"""The forced time at which each example begins, in ms."""
TIME_PASSES = st.integers(0, 50) | st.integers(-20, 2_000) | st.just(-10_000)
"""Milliseconds between steps. Sometimes below zero: Redis' clock is set back by time servers and failovers."""

FORCED_TIME_KEY = "test:forced-time"
_CLOCK = "redis.call('TIME')"
_FORCED = f"redis.call('HMGET', '{FORCED_TIME_KEY}', 'seconds', 'microseconds')"
_OTHER_CLOCK = re.compile(r"""['"]TIME['"]|os\.(?:time|clock)\b""")


def twin_settings() -> settings:
    """Hypothesis' settings for a state machine of twins."""
    return settings(
        max_examples=EXAMPLES,
        stateful_step_count=25,
        deadline=None,
        # A step is a round trip to a real server: the slowest input says nothing about the generator.
        suppress_health_check=[HealthCheck.too_slow],
    )


@cache
def at_forced_time(name: str, clock_reads: int) -> str:
    """The source of ``lua/<name>.lua``, with what it shares with others, reading the forced time.

    ``clock_reads`` is how often ``redis.call('TIME')`` stands in it. Fails if it is another number, or if the time is
    read in another way as well: then some of the script would run at the real time, and the test would mean nothing.
    """
    source = script(name).source
    found = source.count(_CLOCK)
    assert found == clock_reads, f"{name}.lua reads the clock in {found} places, not in {clock_reads}"
    forced = source.replace(_CLOCK, _FORCED)
    assert not _OTHER_CLOCK.search(forced), f"{name}.lua reads the time in a way that cannot be forced"
    return forced


class ForcedTime:
    """A time of the test's own, and scripts that run at it. Empties the database of ``client``."""

    def __init__(self, client: Client, *, now: int = BEGINNING) -> None:
        self._client = client
        self.now = now
        with client.pipeline(transaction=False) as pipe:
            pipe.flushdb()
            pipe.hset(FORCED_TIME_KEY, "seconds", 0)
            pipe.expire(FORCED_TIME_KEY, 24 * 3600)
            pipe.execute()

    def pass_by(self, ms: int) -> None:
        """Let so many milliseconds pass."""
        self.now += ms

    def run(self, name: str, keys: Sequence[str], args: Sequence[Arg] = (), *, clock_reads: int = 1) -> Any:
        """Run ``lua/<name>.lua`` at the forced time and return Redis' answer.

        The time has microseconds as well, other ones at each millisecond, so that a script that does not round down
        is found out.
        """
        seconds, ms = divmod(self.now, 1000)
        time = {"seconds": seconds, "microseconds": ms * 1000 + self.now * 7919 % 1000}
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hset(FORCED_TIME_KEY, mapping=time)
            pipe.eval(at_forced_time(name, clock_reads), len(keys), *keys, *args)
            return pipe.execute()[1]
