"""Sessions of a worker with credentials of a provider that a test steers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from common.domain.credential_rules import CredentialMode, CredentialRules, CredentialScope, Injection
from common.domain.credentials import CredentialRequest, Credentials
from common.domain.tool import Tool
from common.processes import ProcessGuard
from common.settings import Settings
from common.store.client import StoreAddress
from common.store.keys import Keys
from gateway_worker.credentials import service as service_module
from gateway_worker.credentials.service import CredentialService
from gateway_worker.outbox import Outbox
from tests.worker.session_desk import SessionDesk, session_desk


class Steered:
    """Answers as a test says: with credentials, None, an exception, or anything else; counts who asked."""

    def __init__(self, answer: Callable[[CredentialRequest], object] | object = None) -> None:
        self.answer = answer
        self.asked: list[CredentialRequest] = []
        self.going_on: asyncio.Event | None = None
        """Made by the first question, if :attr:`held` is set; it waits there."""
        self.held = False

    async def resolve(self, request: CredentialRequest) -> Any:
        self.asked.append(request)
        if self.held:
            await asyncio.Event().wait()
        found = self.answer(request) if callable(self.answer) else self.answer
        if isinstance(found, BaseException):
            raise found
        return found


def by_caller(version: str = "1") -> Callable[[CredentialRequest], Credentials]:
    """Values that tell whose they are."""
    return lambda request: Credentials.of(
        {"key": f"{request.tool}|{request.tenant}|{request.client}|{version}", "other": "o-value"}
    )


def by_turns(versions: Iterator[str]) -> Callable[[CredentialRequest], Credentials]:
    """The same, of another version each time."""

    def answer(request: CredentialRequest) -> Credentials:
        return by_caller(next(versions))(request)

    return answer


def rules(
    *,
    env: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    meta: dict[str, str] | None = None,
    mode: str = "required",
    scope: str = "tenant",
    providers: tuple[str, ...] = (),
) -> CredentialRules:
    """Rules of plain words."""
    return CredentialRules(
        mode=CredentialMode(mode),
        scope=CredentialScope(scope),
        providers=providers,
        inject=Injection(env=env or {}, headers=headers or {}, meta=meta or {}),
    )


def with_credentials(tool: Tool, **rule: Any) -> Tool:
    """The tool, with these rules."""
    return replace(tool, credentials=rules(**rule))


@asynccontextmanager
async def credential_desk(
    guard: ProcessGuard, address: StoreAddress, keys: Keys, monkeypatch: Any, *providers: Any, **settings: Any
) -> AsyncIterator[tuple[SessionDesk, CredentialService]]:
    """A desk whose sessions ask these providers, named ``p0``, ``p1`` and so on; the service does not run."""
    named = {f"p{number}": provider for number, provider in enumerate(providers)}
    monkeypatch.setattr(service_module, "load_providers", lambda _settings: named)
    async with session_desk(guard, address, keys) as desk:
        outbox = Outbox(desk.redis, keys, result_ttl=60)
        made = Settings.model_validate({"credentials": {"negative_ttl": 0, **settings}})
        service = CredentialService(made, desk.node, desk.redis, keys, outbox)
        service.sessions = desk.sessions.all
        desk.sessions._identity_of = service.identities.of_session
        writing = asyncio.create_task(outbox.run())
        try:
            yield desk, service
        finally:
            await outbox.flushed(5)
            writing.cancel()
            await asyncio.wait([writing])
            service.close()
