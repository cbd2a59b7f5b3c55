"""Resolvers of somebody else: how they are found, and how they are kept from doing harm."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue

import structlog

from common.domain.errors import ConfigurationError, InternalError
from common.domain.invocation import Caller
from common.plugins import UnknownPlugin, load_class
from common.ports import IdentityResolver, RequestFacts
from common.settings import IdentitySettings
from common.settings.fields import IDENTITY_PLUGINS, RESOLVERS

log = structlog.get_logger(__name__)

MOST_UNDER_WAY = 100
"""Questions to one resolver that have no answer yet, those given up included; one more is refused at once."""


def load_custom(name: str, settings: IdentitySettings) -> IdentityResolver:
    """The resolver that a dotted path, or an entry point, names. Raises :class:`ConfigurationError`."""
    try:
        resolver: IdentityResolver = load_class(name, IDENTITY_PLUGINS, RESOLVERS)(settings)
    except UnknownPlugin as error:
        raise ConfigurationError(f"identity.resolver {error.message}", field="identity.resolver") from error
    except Exception as error:
        raise ConfigurationError(
            f"identity.resolver {name!r} cannot be loaded: {error!r}", field="identity.resolver"
        ) from error
    if not callable(getattr(resolver, "resolve", None)):
        raise ConfigurationError(
            f"identity.resolver {name!r} has no method resolve(request)", field="identity.resolver"
        )
    return Bounded(resolver, settings.resolver_timeout)


class Bounded:
    """Asks a resolver in a thread of its own, and waits only so long.

    What waits for the network, a file or a lock is given up on; it may go on in the background, and counts until it
    ends. What computes without a pause cannot be stopped, and holds up the web process: a resolver must not do that.
    """

    def __init__(self, resolver: IdentityResolver, timeout: float) -> None:
        self._resolver = resolver
        self._timeout = timeout
        self._slots = threading.BoundedSemaphore(MOST_UNDER_WAY)

    def resolve(self, request: RequestFacts) -> Caller | None:
        """As the resolver says. Raises :class:`InternalError` if it does not in time, and whatever it raises."""
        if not self._slots.acquire(blocking=False):
            log.error("identity_resolver_broke", problem=f"{MOST_UNDER_WAY} questions have no answer")
            raise InternalError("the caller could not be recognised")
        answer: SimpleQueue[tuple[Caller | None, Exception | None]] = SimpleQueue()
        try:
            threading.Thread(target=self._ask, args=(request, answer), name="identity", daemon=True).start()
        except RuntimeError as fault:
            self._slots.release()
            log.error("identity_resolver_broke", problem=str(fault))
            raise InternalError("the caller could not be recognised") from fault
        try:
            found, error = answer.get(timeout=self._timeout)
        except Empty:
            log.error("identity_resolver_broke", problem=f"no answer within {self._timeout:g} s")
            raise InternalError("the caller could not be recognised") from None
        if error is not None:
            raise error
        return found

    def _ask(
        self, request: RequestFacts, answer: SimpleQueue[tuple[Caller | None, Exception | None]]
    ) -> None:
        try:
            answer.put((self._resolver.resolve(request), None))
        except Exception as error:  # noqa: BLE001 - raised where the answer is waited for
            answer.put((None, error))
        except BaseException as error:  # noqa: BLE001 - such as SystemExit, which is no answer either
            log.error("identity_resolver_broke", problem=repr(error))
            answer.put((None, InternalError("the caller could not be recognised")))
        finally:
            self._slots.release()
