"""A backend that refuses the credentials of a session: others are asked for, and the call is sent again with leave."""

from __future__ import annotations

from typing import Protocol

from common.domain.errors import CredentialUnavailable
from common.domain.rules import Retry
from gateway_worker.credentials.identity import SessionIdentity
from gateway_worker.delivery import Held
from gateway_worker.egress.link import REFUSES_CREDENTIALS, RpcError, StatusRefused


class HasIdentity(Protocol):
    """What is to be known of a session."""

    identity: SessionIdentity | None


def refuses_credentials(error: Exception) -> bool:
    """Whether a backend's answer says that it does not know who asks, or that he may not."""
    return isinstance(error, StatusRefused | RpcError) and error.status in REFUSES_CREDENTIALS


class Refusals:
    """Of one call. It is sent again once at most, and only if other credentials are to be had."""

    __slots__ = ("_renewed",)

    def __init__(self) -> None:
        self._renewed = False

    async def judge(self, error: StatusRefused | RpcError, session: HasIdentity | None, held: Held) -> None:
        """Return if the call is to be sent again, with the credentials that are known now; raise what ends it else.

        Leave is as for a broken link: a call that had not begun needs none but not to be forbidden; one whose own
        request was refused may have run in part for all that is known, so its tool must be ``retry: safe``.
        """
        identity = None if session is None else session.identity
        if identity is None or not refuses_credentials(error):
            raise error
        changed = await identity.refused()
        leave = held.head.leave
        allowed = leave is Retry.SAFE or (leave is Retry.UNSENT and not held.at_backend)
        if changed and allowed and not self._renewed:
            self._renewed = True
            return
        if isinstance(error, RpcError):
            raise error
        raise CredentialUnavailable(
            f"the tool refused its credentials with status {error.status}",
            reason="refused",
            http_status=error.status,
        ) from error
