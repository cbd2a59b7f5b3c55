"""What a tool session watches at its backend, while many begin and end watching at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from common.domain.errors import StoreUnavailable
from common.domain.ids import McpSessionId, ToolId
from common.mcp.revisions import Era
from common.store.client import Client, StoreAddress
from common.store.keys import Keys
from common.store.pipelined import PipelinedConnection
from gateway_worker import ears as ears_module
from gateway_worker import outbox as outbox_module
from gateway_worker import tool_session as session_module
from gateway_worker import watches as watches_module
from gateway_worker.claims import Claim
from gateway_worker.conversation import Conversation
from gateway_worker.ears import MOST_STREAMS, Ears
from gateway_worker.egress.backend import Backend, Negotiated
from gateway_worker.egress.link import LinkLost, OnNotification, RpcError, refuse_request
from gateway_worker.outbox import Outbox
from gateway_worker.tool_session import SessionKey, ToolSession
from gateway_worker.turns import Stay, Turns
from gateway_worker.watches import UPDATED, Watches, WatchStore
from tests.support.aio import on_loop, until
from tests.support.backends import ERAS, stdio_tool

ONE, OTHER = McpSessionId("one"), McpSessionId("other")
A, B, BAD = "note://a", "note://b", "note://bad"


class Resources:
    """A link to a backend whose resources can be watched; it answers in a later turn of the loop.

    ``watched`` is what it tells of now. ``silent`` are methods that it does not answer, ``mute`` is whether it
    acknowledges no stream, ``patience`` the seconds that it takes to refuse one.
    """

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.on_notification: OnNotification = lambda _method, _params: None
        self.on_request = refuse_request
        self.noise = 0
        self.silent: set[str] = set()
        self.mute = False
        self.patience = 0.0
        self.sent: list[tuple[str, Any]] = []
        self._subscribed: set[str] = set()
        self._streams: list[list[str]] = []

    @property
    def watched(self) -> set[str]:
        """Of which resources it tells."""
        return self._subscribed.union(*self._streams)

    @property
    def streams(self) -> int:
        """On how many streams it tells."""
        return len(self._streams)

    async def open(self) -> None:
        """It is."""

    async def close(self) -> None:
        """It needs no end."""

    async def notify(self, method: str, params: dict[str, Any], **_: Any) -> None:
        """It does not care."""

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_notification: OnNotification | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """What a backend does."""
        self.sent.append((method, params.get("uri")))
        for _turn in range(3):
            await asyncio.sleep(0)
        if method in self.silent:
            await asyncio.Event().wait()
        if method == "subscriptions/listen":
            await self._listened(params["notifications"].get("resourceSubscriptions", []), on_notification)
        if params.get("uri") == BAD:
            raise RpcError({"code": -32002, "message": "no such resource"})
        if method == "resources/subscribe":
            self._subscribed.add(params["uri"])
            self.on_notification(UPDATED, {"uri": params["uri"]})
        elif method == "resources/unsubscribe":
            self._subscribed.discard(params["uri"])
        return {}

    async def _listened(self, uris: list[str], on_notification: OnNotification | None) -> None:
        if BAD in uris:
            await asyncio.sleep(self.patience)
            raise RpcError({"code": -32002, "message": "no such resource"})
        self._streams.append(uris)
        try:
            if on_notification is not None and not self.mute:
                on_notification("notifications/subscriptions/acknowledged", {})
            await asyncio.Event().wait()
        finally:
            self._streams.remove(uris)


class Place:
    """A tool session at that backend, and what Redis has of it."""

    def __init__(self, link: Resources, session: ToolSession, watches: Watches, client: Client) -> None:
        self.link, self.session, self.watches = link, session, watches
        self._client = client
        self.outbox = watches._store.outbox

    async def hold_writes(self) -> None:
        """Nothing is written to Redis any more."""
        await until(lambda: self.outbox._open, description="the outbox to have found Redis")
        self.outbox._open = False

    def write(self) -> None:
        """It is again."""
        self.outbox._open = True
        self.outbox._write()

    async def unwatch(self, watcher: McpSessionId, uri: str) -> None:
        """As a call does."""
        await self.session.unwatch(watcher, uri, Stay())

    async def watch(self, watcher: McpSessionId, uri: str, principal: str = "p") -> None:
        """As a call does."""
        await self.session.watch(watcher, principal, uri, Stay())

    def told(self, keys: Keys, watcher: McpSessionId) -> int:
        """How many updates a session was told of."""
        return int(self._client.xlen(keys.session_stream(watcher)))


@asynccontextmanager
async def place(era: Era, address: StoreAddress, keys: Keys, client: Client) -> AsyncIterator[Place]:
    """An open session; nobody watches anything."""
    redis = PipelinedConnection(address)
    outbox = Outbox(redis, keys, result_ttl=60)
    writes = asyncio.create_task(outbox.run())
    watches = Watches(WatchStore(redis, keys, outbox, session_idle=60), ToolId("local"), "s")
    key = SessionKey(ToolId("local"), "s", "digest", era)
    session = ToolSession(key, stdio_tool(), Claim(ToolId("local"), "s", 1), lambda *_: None, watches)
    link = Resources()
    link.on_notification = lambda _method, params: watches.heard(params)
    backend = Backend(link, negotiated(era, {"resources": {"subscribe": True}, "logging": {}}))
    session._ready.set_result(backend)
    session._ears = Ears(backend, lambda *_: None, watches.drop)
    try:
        yield Place(link, session, watches, client)
        await outbox.flushed(5)
    finally:
        session._ears.close()
        writes.cancel()
        await asyncio.wait([writes])
        await redis.aclose()


def negotiated(era: Era, capabilities: Mapping[str, Any]) -> Negotiated:
    """What a backend of that era says of itself."""
    version = {Era.LEGACY: "2025-11-25", Era.MODERN: "2026-07-28"}[era]
    return Negotiated(era=era, version=version, server_info={}, capabilities=capabilities, instructions=None)


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> Era:
    """Each era of a backend."""
    found: Era = request.param
    return found


def test_many_that_begin_at_once_are_all_heard(
    era: Era, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """None takes the place of another; at the end there is one stream at most."""

    @on_loop
    async def scenario() -> None:
        async with place(era, address, keys, client) as here:
            uris = [f"note://{n}" for n in range(8)]
            await asyncio.gather(*(here.watch(ONE, uri) for uri in uris))
            assert set(here.watches.uris) == here.link.watched == set(uris)
            await until(lambda: here.link.streams <= 1, description="the streams before to end")

    scenario()


def test_an_end_beside_a_beginning_leaves_what_is_wanted(
    era: Era, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """In either order."""

    @on_loop
    async def scenario() -> None:
        async with place(era, address, keys, client) as here:
            await here.watch(ONE, A)
            await asyncio.gather(here.unwatch(ONE, A), here.watch(OTHER, A))
            assert here.link.watched == {A}
            await asyncio.gather(here.watch(ONE, A), here.unwatch(OTHER, A), here.watch(ONE, B))
            await until(lambda: here.link.streams <= 1, description="the streams before to end")
            assert here.link.watched == {A, B}
            await asyncio.gather(here.unwatch(ONE, A), here.unwatch(ONE, B))
            await until(lambda: not here.link.watched, description="nothing to be watched")
            assert not here.watches

    scenario()


@on_loop
async def test_a_new_stream_is_there_before_the_old_one_ends(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """So no update is lost between them."""
    async with place(Era.MODERN, address, keys, client) as here:
        await here.watch(ONE, A)
        others = asyncio.gather(*(here.watch(OTHER, f"note://{n}") for n in range(5)))
        while not others.done():
            assert A in here.link.watched
            await asyncio.sleep(0)


@on_loop
async def test_a_backend_that_acknowledges_nothing_has_few_streams(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there before is kept beside the new one, but not without a bound."""
    monkeypatch.setattr(ears_module, "ACKNOWLEDGED_WITHIN", 0.01)
    async with place(Era.MODERN, address, keys, client) as here:
        here.link.mute = True
        uris = [f"note://{n}" for n in range(8)]
        for uri in uris:
            await here.watch(ONE, uri)
        await until(lambda: here.link.streams == MOST_STREAMS, description="the oldest to end")
        assert here.link.watched == set(uris)


def test_what_the_backend_refuses_costs_nobody_else_anything(
    era: Era, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Who asked for it is told, and watches nothing; what was watched before still is, and more can be."""

    @on_loop
    async def scenario() -> None:
        async with place(era, address, keys, client) as here:
            await here.watch(ONE, A)
            for _ in range(4):
                with pytest.raises(RpcError, match="no such"):
                    await here.watch(OTHER, BAD)
            assert here.watches.uris == [A]
            assert here.link.watched == {A}
            await here.watch(OTHER, B)
            assert here.link.watched == {A, B}

    scenario()


def test_a_resource_that_is_gone_does_not_deafen_the_next_incarnation(
    era: Era, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Of what its last one watched, it hears what there is."""

    @on_loop
    async def scenario() -> None:
        async with place(era, address, keys, client) as here:
            assert here.session._ears is not None
            await here.session._ears.open([A, BAD, B])
            assert here.link.watched == {A, B}

    scenario()


@on_loop
async def test_an_update_together_with_the_answer_is_told(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """From the backend's answer on, the watcher counts on it."""
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        await until(lambda: here.told(keys, ONE) == 1, description="the update")


@on_loop
async def test_an_end_that_was_given_up_half_way_is_no_obstacle(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Whether the backend has heard it is not known, so whoever begins anew is subscribed anew."""
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        here.link.silent.add("resources/unsubscribe")
        ending = asyncio.create_task(here.unwatch(ONE, A))
        await until(lambda: ("resources/unsubscribe", A) in here.link.sent, description="the request")
        ending.cancel()
        await asyncio.wait([ending])
        await here.watch(OTHER, A)
        assert here.link.sent[-1] == ("resources/subscribe", A)


@on_loop
async def test_a_silent_backend_keeps_the_pruning_for_a_moment_only(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done for all sessions one after the other. While somebody waits for the backend, it is left for later."""
    monkeypatch.setattr(session_module, "PRUNE_TIME", 0.05)
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        here.link.silent.update({"resources/subscribe", "resources/unsubscribe"})
        stuck = asyncio.create_task(here.watch(OTHER, B))
        await until(lambda: ("resources/subscribe", B) in here.link.sent, description="the request")
        await asyncio.wait_for(here.session.prune_watches(), 5)
        assert A in here.watches.uris
        stuck.cancel()
        with suppress(asyncio.CancelledError):
            await stuck
        await asyncio.wait_for(here.session.prune_watches(), 5)
        assert not here.watches


@on_loop
async def test_who_uses_up_its_own_leaves_the_others_theirs(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all MCP sessions of a principal; what it watches already, and ending it, count against nothing."""
    monkeypatch.setattr(watches_module, "MOST_WATCHES", 2)
    monkeypatch.setattr(watches_module, "MOST_OF_ALL", 3)
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        await here.watch(OTHER, B)
        with pytest.raises(RpcError, match="more than"):
            await here.watch(ONE, B)
        await here.watch(ONE, A)
        await here.watch(McpSessionId("third"), A, "q")
        with pytest.raises(RpcError, match="more than"):
            await here.watch(McpSessionId("third"), B, "q")
        await here.unwatch(OTHER, B)
        await here.watch(McpSessionId("third"), B, "q")


@on_loop
async def test_whose_it_is_outlives_the_session(address: StoreAddress, client: Client, keys: Keys) -> None:
    """The next incarnation counts as this one did."""
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A, "p")
        await until(lambda: client.exists(keys.watches(ToolId("local"), "s")), description="the record")
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watches.restore()
        assert here.watches.has(ONE, A)
        assert here.watches._by_uri == {A: {ONE: "p"}}


class Talk(Conversation):
    """One whose client says who it is."""

    def __init__(self, who: str) -> None:
        self.stay, self._who = Stay(), who

    async def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """It is asked."""
        return {"from": self._who}


@pytest.mark.parametrize("method", ["resources/subscribe", "resources/unsubscribe", "logging/setLevel"])
def test_what_was_given_up_beside_the_calls_own_request_is_asked_of_nobody_else(
    method: str, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """The backend is still at a request of the one who left."""

    @on_loop
    async def scenario() -> None:
        async with place(Era.LEGACY, address, keys, client) as here:
            session, leaving = here.session, Talk("a")
            session.turns = Turns(one_at_a_time=True)
            await here.watch(ONE, A)
            here.link.silent.add(method)

            async def call() -> None:
                async with session.talking("a", leaving):
                    if method == "resources/subscribe":
                        await session.watch(ONE, "p", B, leaving.stay)
                    elif method == "resources/unsubscribe":
                        await session.unwatch(ONE, A, leaving.stay)
                    else:
                        await session.set_log_level("debug", leaving.stay)

            before = len(here.link.sent)
            task = asyncio.create_task(call())
            await until(lambda: len(here.link.sent) > before, description="the request")
            assert here.link.sent[-1][0] == method
            task.cancel()
            await asyncio.wait([task])
            async with session.talking("b", Talk("b")):
                with pytest.raises(RpcError):
                    await session._asked("elicitation/create", {})
            async with session.talking("a", Talk("a")):
                assert await session._asked("elicitation/create", {}) == {"from": "a"}

    scenario()


@pytest.fixture
def slow_refusals(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long a backend takes to refuse, when nobody waits so long."""
    monkeypatch.setattr(ears_module, "ACKNOWLEDGED_WITHIN", 0.02)
    monkeypatch.setattr(ears_module, "LISTEN_PAUSE", 0.02)
    return 0.1


@on_loop
async def test_what_is_refused_late_deafens_nobody(
    address: StoreAddress, client: Client, keys: Keys, slow_refusals: float
) -> None:
    """It is watched no longer, also in Redis; what was asked for together with it is heard."""
    async with place(Era.MODERN, address, keys, client) as here:
        here.link.patience = slow_refusals
        await here.watch(ONE, A)
        others = [f"note://{n}" for n in range(2 * MOST_STREAMS)]
        for uri in [BAD, B, *others]:
            await here.watch(OTHER, uri)
            assert A in here.link.watched
        good = {A, B, *others}
        await until(lambda: here.link.watched == good, description="all that is not refused")
        await until(lambda: here.link.streams == 1, description="the streams before to end")
        assert set(here.watches.uris) == good
        field = f"{OTHER} {BAD}"
        record = keys.watches(ToolId("local"), "s")
        await until(lambda: not client.hexists(record, field), description="the record to go")
        asked = len(here.link.sent)
        await here.watch(OTHER, "note://last")
        assert here.link.watched == {*good, "note://last"}
        assert len(here.link.sent) == asked + 1


@on_loop
async def test_the_next_incarnation_hears_what_there_is_though_it_is_refused_late(
    address: StoreAddress, client: Client, keys: Keys, slow_refusals: float
) -> None:
    """As where the backend refuses at once."""
    async with place(Era.MODERN, address, keys, client) as here:
        assert here.session._ears is not None
        here.link.patience = slow_refusals
        await here.session._ears.open([A, BAD, B])
        await until(lambda: here.link.watched == {A, B}, description="those that there are")


@on_loop
async def test_a_flood_of_updates_is_bounded_and_told_by_its_uris_alone(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Whatever else a backend sends with them, and however many there are, they do not fill the worker."""
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        await here.outbox.flushed(5)
        before = here.told(keys, ONE)
        here.watches.heard({"uri": A, "more": "x" * 1_000_000})
        here.watches.heard({"uri": A + "/" + "x" * 1_000_000})
        await here.outbox.flushed(5)
        ((_, told),) = client.xrevrange(keys.session_stream(ONE), count=1)
        assert here.told(keys, ONE) == before + 1
        assert b"more" not in b"".join(told.values())
        await here.hold_writes()
        for _ in range(outbox_module.MAX_NOTIFICATIONS + 100):
            here.watches.heard({"uri": A})
        assert len(here.outbox._commands) <= outbox_module.MAX_NOTIFICATIONS
        here.write()


@on_loop
async def test_a_backend_that_is_silent_about_what_is_watched_serves_calls_all_the_same(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for a moment; it is asked for each resource alone, and what it takes up later it tells of."""
    monkeypatch.setattr(session_module, "RESTORED_WITHIN", 0.1)
    monkeypatch.setattr(ears_module, "SORTED_WITHIN", 0.5)
    async with place(Era.LEGACY, address, keys, client) as here:
        for uri in (A, B):
            await here.watch(ONE, uri)
        await here.outbox.flushed(5)
        link = Resources()
        link.silent = {"resources/subscribe"}

        async def opened() -> Backend:
            return Backend(link, negotiated(Era.LEGACY, {"resources": {"subscribe": True}}))

        before = here.session
        watches = Watches(before.watches._store, before.key.tool, "s")
        session = ToolSession(before.key, before.tool, before.claim, lambda *_: None, watches)
        session._owner = asyncio.create_task(session._own(opened, lambda *_: None))
        async with asyncio.timeout(5):
            assert (await session.backend()).link is link
        assert not link.watched
        link.silent.clear()
        await until(lambda: link.watched == {B}, description="the one that it was asked for last")
        await session.close()


@pytest.mark.parametrize(
    ("watched", "updated", "told"),
    [
        ("note://a", "note://a", True),
        ("note://a", "note://a/part", True),
        ("note://a/", "note://a/part", True),
        ("note://a", "note://ab", False),
        ("note://a", "note://", False),
        ("n", "note://a", False),
        ("note:", "note://a", False),
        ("note:/", "note://a", False),
        ("note://", "note://a", False),
        ("", "note://a", False),
        ("n", "n/a", False),
        ("n", "n", True),
    ],
)
def test_a_watch_is_of_the_resource_and_its_parts(
    watched: str, updated: str, told: bool, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Not of all whose URIs begin alike: those may be other clients'."""

    @on_loop
    async def scenario() -> None:
        async with place(Era.LEGACY, address, keys, client) as here:
            here.watches.add(ONE, "p", watched)
            here.watches.add(OTHER, "q", updated)
            here.watches.heard({"uri": updated})
            await until(lambda: here.told(keys, OTHER) == 1, description="the update")
            assert here.told(keys, ONE) == told

    scenario()


@on_loop
async def test_a_watch_on_a_session_that_was_replaced_meanwhile_is_made_anew(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Its next incarnation may know nothing of it, so the call is to be sent again, to that one."""
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        here.session.why = "in doubt"
        for work in (here.watch(ONE, A), here.watch(ONE, B), here.unwatch(ONE, A)):
            with pytest.raises(LinkLost, match="replaced") as caught:
                await work
            assert caught.value.unsent
        assert not here.watches


@on_loop
async def test_what_was_taken_up_is_on_record_again_when_it_is_asked_for(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """The session before may have taken the record back since."""
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.watch(ONE, A)
        record = keys.watches(ToolId("local"), "s")
        await until(lambda: client.exists(record), description="the record")
        client.delete(record)
        await here.watch(ONE, A)
        await until(lambda: client.exists(record), description="the record again")


@on_loop
async def test_a_watch_succeeds_when_it_is_on_record(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Else a session that takes the place right behind the success would not know of it."""
    async with place(Era.LEGACY, address, keys, client) as here:
        record = keys.watches(ToolId("local"), "s")
        for uri in (A, B, A):
            await here.watch(ONE, uri)
            assert client.hexists(record, f"{ONE} {uri}")


@pytest.mark.parametrize("known", [False, True])
def test_a_session_that_is_replaced_before_the_record_makes_no_success(
    known: bool, address: StoreAddress, client: Client, keys: Keys
) -> None:
    """The one in its place has read the records already: the watch is made anew there."""

    @on_loop
    async def scenario() -> None:
        async with place(Era.LEGACY, address, keys, client) as here:
            if known:
                await here.watch(ONE, A)
            await here.hold_writes()
            watching = asyncio.create_task(here.watch(ONE, A))
            await until(lambda: A in here.link.watched, description="the backend to tell of it")
            for _turn in range(10):
                await asyncio.sleep(0)
            here.session.why = "retired"
            here.write()
            with pytest.raises(LinkLost, match="replaced"):
                await asyncio.wait_for(watching, 5)

    scenario()


@on_loop
async def test_a_watch_that_redis_does_not_record_is_refused(
    address: StoreAddress, client: Client, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a bound, and then nothing is watched."""
    monkeypatch.setattr(watches_module, "RECORDED_WITHIN", 0.05)
    async with place(Era.LEGACY, address, keys, client) as here:
        await here.hold_writes()
        with pytest.raises(StoreUnavailable, match="recorded"):
            await asyncio.wait_for(here.watch(ONE, A), 5)
        assert not here.watches
        here.write()


@on_loop
async def test_an_end_and_a_new_beginning_keep_their_order(
    address: StoreAddress, client: Client, keys: Keys
) -> None:
    """Also in one write: what is watched now is on record, and what is not is not."""
    async with place(Era.LEGACY, address, keys, client) as here:
        for uri in (A, B):
            here.watches.add(ONE, "p", uri)
        await here.hold_writes()
        here.watches.remove(ONE, A)
        here.watches.add(ONE, "p", A)
        here.watches.remove(ONE, B)
        here.write()
        assert await here.outbox.flushed(5)
        assert client.hkeys(keys.watches(ToolId("local"), "s")) == [f"{ONE} {A}".encode()]
