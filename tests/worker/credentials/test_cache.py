"""What is kept, for how long, and that many ask once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from common.domain.credentials import Credentials
from common.domain.ids import TenantId, ToolId
from common.settings.credentials import CredentialsSettings
from gateway_worker.credentials import cache as module
from gateway_worker.credentials.asking import Outcome, Wanted
from gateway_worker.credentials.cache import CredentialCache
from tests.support.aio import on_loop, run, until
from tests.worker.credentials.contract import asked


def want(tool: str = "t", tenant: str | None = "a") -> Wanted:
    """A key."""
    return Wanted(asked(tool, tenant), ("p",))


class Desk:
    """A cache over answers that a test gives, and a clock that it moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now = 1000.0
        self.questions: list[Wanted] = []
        self.outcome = self.found()
        self.gate: asyncio.Event | None = None
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.cache = CredentialCache(self.ask, CredentialsSettings.model_validate(settings))

    @staticmethod
    def found(value: str = "v", **times: float) -> Outcome:
        """An outcome with a value."""
        return Outcome(Credentials.of({"k": value}, **times), "p")

    async def ask(self, wanted: Wanted) -> Outcome:
        self.questions.append(wanted)
        if self.gate is not None:
            await self.gate.wait()
        return self.outcome

    async def value(self, wanted: Wanted | None = None, **how: Any) -> str | None:
        """The value that is handed out."""
        found = (await self.cache.get(wanted or want(), **how)).credentials
        return None if found is None else found.values["k"].reveal()


def test_what_is_kept_is_one_tenant_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one tool, and who would be asked in which order; others ask for themselves."""

    async def scenario() -> None:
        desk = Desk(monkeypatch)
        others = [
            want(),
            want(tenant="b"),
            want(tenant=None),
            want(tool="u"),
            want()._replace(providers=("q",)),
        ]
        for number, wanted in enumerate(others):
            desk.outcome = desk.found(str(number))
            assert await desk.value(wanted) == str(number)
        assert [await desk.value(wanted) for wanted in others] == ["0", "1", "2", "3", "4"]

    run(scenario())


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        ({}, 300.0),
        ({"expires_in": 40.0}, 40.0),
        ({"expires_in": 4000.0}, 300.0),
        ({"max_age": 1.0}, 1.0),
        ({"max_age": 1.0, "expires_in": 0.5}, 0.5),
    ],
)
def test_an_answer_is_kept_for_its_time(
    times: dict[str, float], kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the settings say, and never beyond what the provider said of it."""

    async def scenario() -> None:
        desk = Desk(monkeypatch)
        desk.outcome = desk.found(**times)
        for _ in range(3):
            await desk.value()
            desk.now += kept / 3 - 1e-6
        assert len(desk.questions) == 1
        desk.now += 1e-5
        await desk.value()
        assert len(desk.questions) == 2

    run(scenario())


@pytest.mark.parametrize("outcome", [Outcome(), Outcome(provider="p", failure="X")])
def test_that_there_is_none_is_kept_shortly(outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a provider that is away nor a missing secret is asked for by each call."""

    async def scenario() -> None:
        desk = Desk(monkeypatch, negative_ttl=2)
        desk.outcome = outcome
        for _ in range(5):
            assert await desk.value() is None
            desk.now += 0.39
        assert len(desk.questions) == 1
        desk.now += 0.1
        await desk.value()
        assert len(desk.questions) == 2

    run(scenario())


def test_a_failure_takes_nothing_from_what_is_still_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when the answer's own time is over there is none."""

    async def scenario() -> None:
        desk = Desk(monkeypatch, cache_ttl=10, negative_ttl=1)
        await desk.value()
        desk.now += 9
        desk.outcome = Outcome(provider="p", failure="X")
        assert await desk.value(newer_than=desk.now - 1) is None
        assert await desk.value() == "v"
        desk.now += 2
        assert await desk.value() is None

    run(scenario())


@on_loop
async def test_many_who_ask_at_once_ask_once() -> None:
    """Who gives up takes it from nobody."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        desk = Desk(monkeypatch)
        desk.gate = asyncio.Event()
        waiting = [asyncio.create_task(desk.value()) for _ in range(50)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        desk.gate.set()
        assert await asyncio.gather(*waiting[1:]) == ["v"] * 49
        assert len(desk.questions) == 1


@on_loop
async def test_it_says_how_often_it_could_answer() -> None:
    """From what it keeps, and not."""
    with pytest.MonkeyPatch.context() as patch:
        desk = Desk(patch)
        for tool in ("a", "a", "b", "a"):
            await desk.value(want(tool))
    assert (desk.cache.hits, desk.cache.misses) == (2, 2)


@on_loop
async def test_what_was_asked_for_before_an_order_to_forget_is_not_used() -> None:
    """Nor kept: it may be the secret that was leaked."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        desk = Desk(monkeypatch)
        desk.gate, desk.outcome = asyncio.Event(), desk.found("old")
        waiting = asyncio.create_task(desk.value())
        await until(lambda: desk.questions, description="the question")
        desk.cache.drop(tool=ToolId("t"))
        old, desk.gate = desk.gate, asyncio.Event()
        old.set()
        await until(lambda: len(desk.questions) == 2, description="the second question")
        desk.outcome = desk.found("new")
        desk.gate.set()
        assert await waiting == "new"
        assert await desk.value() == "new"


def test_an_order_forgets_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool, a tenant, both, or all."""

    async def scenario() -> None:
        wanted = [want("t", "a"), want("t", "b"), want("u", "a"), want("t", None)]
        for order, left in (
            ({"tool": ToolId("t")}, 1),
            ({"tenant": TenantId("a")}, 2),
            ({"tool": ToolId("t"), "tenant": TenantId("a")}, 3),
            ({}, 0),
        ):
            desk = Desk(monkeypatch)
            for one in wanted:
                await desk.value(one)
            desk.cache.drop(**order)  # type: ignore[arg-type]
            assert len(desk.cache) == left

    run(scenario())


def test_the_least_recently_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond ``cache_size``."""

    async def scenario() -> None:
        desk = Desk(monkeypatch, cache_size=2)
        for tenant in ("a", "b", "a", "c"):
            await desk.value(want(tenant=tenant))
        assert len(desk.cache) == 2
        await desk.value(want(tenant="a"))
        assert len(desk.questions) == 3
        await desk.value(want(tenant="b"))
        assert len(desk.questions) == 4

    run(scenario())
