"""An identity without a web process around it: what it is asked, and what it wrote down."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from common.domain.api_key import ApiKeyRecord
from common.domain.egress import STRICT
from common.domain.errors import GatewayError
from common.domain.invocation import Caller
from common.ports import IdentityResolver, RequestFacts
from common.settings import IdentitySettings, WebSettings
from gateway_web.identity.doorkeeper import Identity
from gateway_web.identity.failures import Failures
from gateway_web.identity.loading import load_resolvers
from gateway_web.identity.proxies import TrustedProxies

NOW = 1_700_000_000_000


def facts(headers: Mapping[str, str], **changes: Any) -> RequestFacts:
    """A request of a peer that is a trusted proxy."""
    given = {"remote_address": "127.0.0.1", "path": "/mcp", "method": "POST", "from_proxy": True, **changes}
    return RequestFacts(headers=dict(headers), **given)


def settings(*resolver: str, **changes: Any) -> IdentitySettings:
    """The section of a file."""
    return IdentitySettings.model_validate({"resolver": list(resolver), **changes})


def no_thread_once(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    """Let the next thread that a module starts be one that the system does not give, and those after it be given."""
    refusals = [RuntimeError("can't start new thread")]

    class Thread(threading.Thread):
        def start(self) -> None:
            if refusals:
                raise refusals.pop()
            super().start()

    # In the module's own name alone: the whole process's is the test runner's, too.
    monkeypatch.setattr(module, "threading", SimpleNamespace(**{**vars(threading), "Thread": Thread}))


@dataclass
class Issued:
    """Issued keys in memory, and how often they were looked up."""

    records: dict[str, ApiKeyRecord] = field(default_factory=dict)
    version: int = 0
    looks: int = 0
    fault: Exception | None = None

    def find(self, key_id: str) -> ApiKeyRecord | None:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        return self.records.get(key_id)


@dataclass
class Noted:
    """Failures in memory."""

    reasons: list[str] = field(default_factory=list)

    def note(self, reason: str, request: RequestFacts, **who: str) -> None:
        self.reasons.append(str(reason))


def identity_of(
    section: IdentitySettings,
    *,
    issued: Issued | None = None,
    resolvers: Sequence[IdentityResolver] | None = None,
    noted: Noted | None = None,
) -> Identity:
    """The identity of these settings, or with these resolvers."""
    found = resolvers or load_resolvers(section, STRICT, issued or Issued(), lambda: NOW)
    return Identity(found, section, TrustedProxies(WebSettings()), cast("Failures", noted or Noted()))


def who(
    section: IdentitySettings, headers: Mapping[str, str], **changes: Any
) -> tuple[str, str] | type[GatewayError]:
    """Tenant and client, or the refusal."""
    return named(identity_of(section), facts(headers, **changes))


def named(identity: Identity, request: RequestFacts) -> tuple[str, str] | type[GatewayError]:
    """Tenant and client, or the class of the error table that the refusal is of."""
    try:
        caller: Caller = identity.recognise(request)
    except GatewayError as error:
        return next(kind for kind in type(error).__mro__ if kind.__module__ == "common.domain.errors")
    return caller.tenant, caller.client
