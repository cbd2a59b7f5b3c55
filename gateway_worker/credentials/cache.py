"""What providers answered, kept for a while: the least recently used goes first, and many who ask at once ask once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common.domain.credentials import Credentials
from common.domain.ids import TenantId, ToolId
from common.settings.credentials import CredentialsSettings
from gateway_worker.credentials.asking import Outcome, Wanted


@dataclass(frozen=True, slots=True)
class Answer:
    """An outcome and its times, in monotonic seconds: asked for at ``asked``, handed out until ``until``.

    Whoever uses the credentials asks again from ``due`` on, and has none any more from ``expires`` on.
    """

    outcome: Outcome
    asked: float
    until: float
    due: float
    expires: float = math.inf

    @property
    def credentials(self) -> Credentials | None:
        return self.outcome.credentials

    @property
    def fingerprint(self) -> str:
        """Tells other values from the same ones; empty for none."""
        return "" if self.credentials is None else self.credentials.fingerprint


@dataclass(slots=True, eq=False)
class _Flight:
    """One question under way. ``void``: what it brings is of before an order to forget."""

    task: asyncio.Task[Answer]
    void: bool = False


OnAnswer = Callable[[Wanted, Outcome], None]


class CredentialCache:
    """One a worker; belongs to its event loop. Values are never kept beyond their expiry."""

    def __init__(
        self,
        ask: Callable[[Wanted], Awaitable[Outcome]],
        settings: CredentialsSettings,
        *,
        on_answer: OnAnswer = lambda _wanted, _outcome: None,
    ) -> None:
        """``ask`` never raises; ``on_answer`` hears each answer that is not void."""
        self._ask = ask
        self._settings = settings
        self._on_answer = on_answer
        self._kept: OrderedDict[Wanted, Answer] = OrderedDict()
        self._flights: dict[Wanted, _Flight] = {}
        self.hits = self.misses = 0
        """Questions that were answered from here, and those that had to wait for a provider."""

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, wanted: Wanted, *, newer_than: float = -math.inf) -> Answer:
        """The answer that is kept, or a new one; one that was asked for later than ``newer_than`` in any case.

        Who gives up waiting takes it from nobody.
        """
        while True:
            kept = self._kept.get(wanted)
            if kept is not None and time.monotonic() < kept.until and kept.asked > newer_than:
                self._kept.move_to_end(wanted)
                self.hits += 1
                return kept
            self.misses += 1
            flight = self._flights.get(wanted) or self._begin(wanted)
            answer = await asyncio.shield(flight.task)
            if not flight.void:
                return answer

    def take_over(self, ask: Callable[[Wanted], Awaitable[Outcome]], settings: CredentialsSettings) -> None:
        """Ask others from now on, under other settings. What was kept is forgotten."""
        self._ask, self._settings = ask, settings
        self.drop()

    def drop(self, *, tool: ToolId | None = None, tenant: TenantId | None = None) -> None:
        """Forget what is of this tool and tenant (None: of any), also what is being asked for at this moment."""

        def meant(wanted: Wanted) -> bool:
            request = wanted.request
            return tool in (None, request.tool) and tenant in (None, request.tenant)

        for wanted in [wanted for wanted in self._kept if meant(wanted)]:
            del self._kept[wanted]
        for wanted in [wanted for wanted in self._flights if meant(wanted)]:
            self._flights.pop(wanted).void = True

    def _begin(self, wanted: Wanted) -> _Flight:
        task = asyncio.create_task(self._asked(wanted), name=f"credentials-{wanted.request.tool}")
        flight = self._flights[wanted] = _Flight(task)
        task.add_done_callback(lambda _: self._landed(wanted, flight))
        return flight

    async def _asked(self, wanted: Wanted) -> Answer:
        asked = time.monotonic()
        return self._timed(await self._ask(wanted), asked)

    def _landed(self, wanted: Wanted, flight: _Flight) -> None:
        if flight.void:
            return
        del self._flights[wanted]
        if flight.task.cancelled() or flight.task.exception() is not None:
            return
        answer, kept = flight.task.result(), self._kept.get(wanted)
        self._on_answer(wanted, answer.outcome)
        outcome = answer.outcome
        if outcome.failure and not outcome.refused and kept is not None and time.monotonic() < kept.until:
            return  # a provider that is away takes nothing from what it said before
        self._kept[wanted] = answer
        self._kept.move_to_end(wanted)
        while len(self._kept) > self._settings.cache_size:
            self._kept.popitem(last=False)

    def _timed(self, outcome: Outcome, asked: float) -> Answer:
        settings, found = self._settings, outcome.credentials
        if found is None:
            again = asked + settings.negative_ttl
            return Answer(outcome, asked, until=again, due=again)
        kept = settings.cache_ttl if found.max_age is None else min(settings.cache_ttl, found.max_age)
        if found.expires_in is None:
            return Answer(outcome, asked, until=asked + kept, due=asked + kept)
        life = found.expires_in
        if found.issued:
            kept = life
        ahead = min(settings.refresh_ahead, life / 2)
        return Answer(
            outcome,
            asked,
            until=asked + min(kept, life),
            due=asked + min(kept, life - ahead),
            expires=asked + life,
        )
