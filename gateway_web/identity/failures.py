"""Identity failures in the audit journal, so bounded that nobody can fill it by failing."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from common.audit.journal import audit_command
from common.domain.audit import AuditEvent, EventKind
from common.metrics.figures import Figures
from common.ports import RequestFacts
from common.store.client import Client, store_errors
from common.store.keys import Keys
from gateway_web.identity.refusals import Reason

MOST_A_SECOND = 20
"""Records that one process writes in a second; what is more is counted in one."""
EVERY = 1.0
_TOOL = re.compile(r"^(/servers/).*(/[a-z]+)/?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Kind:
    reason: str
    address: str
    route: str
    tenant: str = ""
    client: str = ""


_OTHERS = _Kind("many", "many addresses", "")


class Failures:
    """Counts failures, and writes once a second what was counted.

    Degrades: what could not be written while Redis is away is written when it is back, up to the bound; at a process'
    end the last second's are lost. Each one has been refused in any case.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        figures: Figures | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._keys = keys
        self._figures = figures
        self._clock = clock
        self._lock = threading.Lock()
        self._counted: Counter[_Kind] = Counter()
        self._next = float("-inf")

    def note(self, reason: Reason, request: RequestFacts, *, tenant: str = "", client: str = "") -> None:
        """Somebody was refused. The credential is not looked at."""
        if self._figures is not None:
            self._figures.count("canalgate_identity_failures", reason.value)
        route = route_of(request)
        kind = _Kind(reason.value, request.remote_address or "unix", route, tenant, client)
        with self._lock:
            if kind not in self._counted and len(self._counted) >= MOST_A_SECOND:
                kind = _OTHERS
            self._counted[kind] += 1

    def flush(self) -> None:
        """Write what was counted, if it is time. Raises :class:`StoreUnavailable`; then it is still to be written."""
        if not self._counted or self._clock() < self._next:
            return
        self._next = self._clock() + EVERY
        with self._lock:
            counted, self._counted = self._counted, Counter()
        try:
            with store_errors("writing the audit journal"), self._client.pipeline(transaction=False) as pipe:
                for kind, count in counted.items():
                    pipe.execute_command(*audit_command(self._keys, _event(kind, count)))  # type: ignore[no-untyped-call]
                pipe.execute()
        except BaseException:
            with self._lock:
                self._counted.update(counted)
            raise


def route_of(request: RequestFacts) -> str:
    """Method and path, without the name of a tool, which may be anything that a stranger likes."""
    path = request.path[:200]
    found = _TOOL.match(path)
    return f"{request.method} {path if found is None else f'{found[1]}*{found[2]}'}".strip()


def _event(kind: _Kind, count: int) -> AuditEvent:
    return AuditEvent(
        kind=EventKind.IDENTITY_FAILURE,
        actor=kind.address,
        tenant=kind.tenant,
        client=kind.client,
        reason=kind.reason,
        detail=f"{kind.route} x{count}".strip(),
    )
