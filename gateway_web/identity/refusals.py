"""Why nobody was recognised: in words for the caller, and in one word for the audit journal."""

from __future__ import annotations

from enum import StrEnum

from common.domain.errors import (
    GatewayError,
    InsufficientScope,
    InvalidRequest,
    SessionNotFound,
    Unauthenticated,
)


class Reason(StrEnum):
    """The word in the audit journal."""

    MISSING = "missing"
    MALFORMED = "malformed"
    AMBIGUOUS = "ambiguous"
    IN_QUERY = "in_query"
    UNKNOWN_KEY = "unknown_key"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    AUDIENCE = "wrong_audience"
    ISSUER = "wrong_issuer"
    ALGORITHM = "algorithm"
    TOKEN_TYPE = "token_type"  # noqa: S105 - a word, not a secret
    UNKNOWN_KID = "unknown_kid"
    SIGNATURE = "bad_signature"
    CLAIMS = "claims"
    UNTRUSTED_PEER = "untrusted_peer"
    SCOPE = "insufficient_scope"
    REFUSED = "refused"
    """By a resolver of somebody else."""
    BROKEN = "resolver_broke"
    UNAVAILABLE = "unavailable"
    OTHERS_SESSION = "session_of_another"


class Unrecognised(Unauthenticated):
    """A credential that is no good (``presented``), or none."""

    def __init__(self, reason: Reason, message: str, *, presented: bool = True) -> None:
        super().__init__(message)
        self.reason = reason
        self.presented = presented


class Ambiguous(InvalidRequest):
    """It cannot be said which of several credentials is meant, or it was sent where none may be."""

    def __init__(self, message: str, *, field: str, reason: Reason = Reason.AMBIGUOUS) -> None:
        super().__init__(message, field=field)
        self.reason = reason


def reason_of(error: GatewayError) -> Reason:
    """The word for a refusal."""
    if isinstance(error, Unrecognised | Ambiguous):
        return error.reason
    if isinstance(error, InsufficientScope):
        return Reason.SCOPE
    if isinstance(error, SessionNotFound):
        return Reason.OTHERS_SESSION
    if error.meaning.http >= 500:
        return Reason.UNAVAILABLE if error.meaning.retryable else Reason.BROKEN
    return Reason.REFUSED
