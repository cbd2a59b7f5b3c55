"""Pins: the pure machine and the scripts, driven by the same steps, are equal after each."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from common.domain.content_rules import ContentRules, Pinning
from common.domain.errors import GatewayError
from common.domain.ids import ToolId
from common.domain.pins import Change, Offered, Pins, Place, approve, discovered, reject
from common.registry.pins import PinStore, pin_arguments, unapproved_of
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from tests.lua.twin import TWIN_TIMEOUT, twin_settings

TOOL = ToolId("a tool/ü")
PLACES: list[Place] = [("tools", "a"), ("tools", 'b"\n]'), ("instructions", "")]
DIGESTS = [letter * 64 for letter in "abc"]
RULES = st.sampled_from(
    [
        ContentRules(),
        ContentRules(pinning=Pinning.QUARANTINE),
        ContentRules(pinning=Pinning.QUARANTINE, approve_first=True),
    ]
)
OFFERS = st.dictionaries(
    st.sampled_from(PLACES),
    st.sampled_from(DIGESTS).map(lambda digest: Offered(digest=digest, text=digest[:1].encode())),
)


class PinTwins(RuleBasedStateMachine):
    """Discoveries and operators that judge by what they read, and write at once or later."""

    read = Bundle("read")

    def __init__(self, client: Client) -> None:
        super().__init__()
        client.flushdb()
        self.client = client
        self.keys = Keys("test")
        self.store = PinStore(client, self.keys)
        self.pure = Pins()
        client.hset(self.keys.registry_versions, TOOL, 1)

    @rule(target=read)
    def reads(self) -> Pins:
        return self.pure

    @rule(pins=read, offers=OFFERS, rules=RULES)
    def a_discovery_writes(self, pins: Pins, offers: dict[Place, Offered], rules: ContentRules) -> None:
        self._write(pins, discovered(pins, offers, rules, now=7))

    @rule(
        pins=read,
        place=st.sampled_from(PLACES),
        digest=st.sampled_from(DIGESTS),
        word=st.sampled_from([approve, reject]),
    )
    def an_operator_writes(self, pins: Pins, place: Place, digest: str, word: object) -> None:
        try:
            if word is approve:
                change = approve(pins, place, digest, by="ann", now=8)
            else:
                change = reject(pins, place, digest, now=8)
        except GatewayError:
            return
        self._write(pins, change)

    def _write(self, pins: Pins, change: Change) -> None:
        keys = self.keys
        names = [
            *(keys.registry_versions, keys.registry_version, keys.registry_changes),
            *(keys.pins(TOOL), keys.registry_unapproved, keys.audit),
        ]
        written = run(self.client, "pins_put", names, [TOOL, "channel", *pin_arguments(pins, change, [])])
        assert written == (pins.version == self.pure.version)
        if written and change:
            self.pure = change.applied(pins)

    @invariant()
    def equal(self) -> None:
        found = self.store.read(TOOL)
        assert (found.version, found.approved, found.waiting) == (
            self.pure.version,
            self.pure.approved,
            self.pure.waiting,
        )
        assert (self.client.hget(self.keys.registry_unapproved, TOOL) or b"") == unapproved_of(self.pure)


@pytest.mark.timeout(TWIN_TIMEOUT)
def test_twins(client: Client) -> None:
    """Whatever the order, and however old what was read."""
    run_state_machine_as_test(lambda: PinTwins(client), settings=twin_settings())
