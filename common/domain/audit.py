"""What is written into the audit journal: one flat record of text for each event, without secrets or arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

MAX_FIELD = 500
"""Longest value in characters: some reasons hold the end of a process's standard error."""


class EventKind(StrEnum):
    """What happened."""

    POLICY_DECISION = "policy_decision"
    """Whether a call may go on its way: ``outcome`` is allow, deny, throttle, error or unknown."""
    INVOCATION_START = "invocation_start"
    """A worker has taken the call; nothing of it was sent to a backend before."""
    INVOCATION_COMPLETE = "invocation_complete"
    """The backend answered, be it with an error."""
    INVOCATION_FAILED = "invocation_failed"
    """The call ended without an answer of the backend."""
    TOOL_REGISTERED = "tool_registered"
    TOOL_UPDATED = "tool_updated"
    TOOL_REMOVED = "tool_removed"
    TOOL_REFUSED = "tool_refused"
    """A definition that somebody brought at run time was not taken: it is not good, or may not come from him."""
    ADMIN_REFUSED = "admin_refused"
    """An operator's request was refused, for his role or for what it says: ``method`` is its route."""
    TOOL_ENABLED = "tool_enabled"
    TOOL_DISABLED = "tool_disabled"
    TOOL_DRAINED = "tool_drained"
    """An operator let the tool take no new sessions."""
    TOOL_UNDRAINED = "tool_undrained"
    TOOL_RETIRED = "tool_retired"
    """The settings file has the tool no more: it takes no new calls, and is removed when its calls have ended."""
    TOOL_KEPT = "tool_kept"
    """A retired tool is in the settings file again, or was registered at run time."""
    DISCOVERY_REFUSED = "discovery_refused"
    """A source named what may not be registered, or (without a tool) is at fault itself: see ``detail``."""
    SETTINGS_RELOADED = "settings_reloaded"
    """A process took over what is new in its settings file; ``node`` says which."""
    SETTINGS_REFUSED = "settings_refused"
    """A process was told to read its settings anew, and kept the old ones: ``detail`` says what is wrong."""
    TENANT_CHANGED = "tenant_changed"
    """An operator set or suspended a tenant's quota."""
    TENANT_REMOVED = "tenant_removed"
    """What an operator had set for a tenant holds no more."""
    CIRCUIT_STATE_CHANGE = "circuit_state_change"
    CIRCUIT_RESET = "circuit_reset"
    """An operator closed the circuit."""
    CIRCUIT_TRIPPED = "circuit_tripped"
    """An operator opened the circuit."""
    HEALTH_TRANSITION = "health_transition"
    CREDENTIAL_RESOLUTION = "credential_resolution"
    """A tool's credentials were found, missing or could not be asked for, or became others; never each time."""
    CREDENTIALS_FLUSHED = "credentials_flushed"
    """An operator had all workers forget the credentials they keep."""
    CREDENTIALS_ROTATED = "credentials_rotated"
    """An operator had all sessions with credentials built anew."""
    TOOL_QUARANTINED = "tool_quarantined"
    """A definition is not the approved one, and no client is given it."""
    DEFINITION_CHANGED = "definition_changed"
    """The same of a tool whose changed definitions are given all the same (``pinning: warn``)."""
    DEFINITION_APPROVED = "definition_approved"
    """An operator approved a definition."""
    DEFINITION_REJECTED = "definition_rejected"
    TOOL_FLAGGED = "tool_flagged"
    """A definition holds something hidden, words to a model, or a name that looks like another tool's."""
    SESSION_CREATED = "session_created"
    SESSION_RECOVERED = "session_recovered"
    """The link to the backend was lost and made again."""
    SESSION_CLOSED = "session_closed"
    INVOCATION_CANCELLED = "invocation_cancelled"
    """An operator took a call back."""
    DEAD_LETTER_READ = "dead_letter_read"
    """An operator was shown a message that no worker could run."""
    DEAD_LETTER_DROPPED = "dead_letter_dropped"
    """An operator removed one for good."""
    API_KEY_ISSUED = "api_key_issued"
    API_KEY_ROTATED = "api_key_rotated"
    API_KEY_REVOKED = "api_key_revoked"
    IDENTITY_FAILURE = "identity_failure"
    """Requests whose caller was not recognised, or came with somebody else's session. Counted by the second."""
    NODE_LOST = "node_lost"
    """A worker's lease ended without its leave."""
    INVOCATION_LOST = "invocation_lost"
    """A call was under way on a lost node: whether its backend acted is unknown. It is the end of that call."""
    JOURNAL_GAP = "journal_gap"
    """Records are missing from the journal that were there; ``detail`` says which."""


CALL_ENDS = frozenset((EventKind.INVOCATION_COMPLETE, EventKind.INVOCATION_FAILED, EventKind.INVOCATION_LOST))
"""Every call that was accepted has exactly one record of one of these kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One event before it is recorded. What is empty is not written.

    ``actor`` is who did it: an operator (``cli:<user>``), ``file`` for the settings file, a node, or the subject of a
    caller. ``reason`` is a word or a sentence on why, ``detail`` what else is worth knowing; neither may hold a secret
    or an argument. ``outcome`` says how it came out (the words of :class:`~common.domain.errors.Status`, and
    ``allow``, ``deny``, ``throttle``, ``error``, ``cancelled``, ``unknown``), ``error_code`` is one of
    :class:`~common.domain.errors.ErrorCode`. ``duration_ms`` is in milliseconds, ``attempt`` counts from 0.
    """

    kind: EventKind
    actor: str = ""
    tool: str = ""
    tenant: str = ""
    client: str = ""
    session: str = ""
    node: str = ""
    invocation: str = ""
    method: str = ""
    capability: str = ""
    request_id: str = ""
    trace_id: str = ""
    attempt: str = ""
    outcome: str = ""
    error_code: str = ""
    duration_ms: str = ""
    count: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One event as the journal holds it: ``at`` is Redis time in milliseconds, ``fields`` also what others added."""

    id: str
    at: int
    fields: Mapping[str, str]

    @property
    def kind(self) -> str:
        """An :class:`EventKind`, or the word of a newer writer."""
        return self.fields.get("kind", "")


FIELDS: tuple[str, ...] = tuple(field.name for field in fields(AuditEvent))
"""The names of all fields, in the order in which they are written and shown."""


def event_fields(event: AuditEvent) -> list[str]:
    """Names and values in turn, as a stream takes them."""
    pairs = [(name, clipped(getattr(event, name))) for name in FIELDS]
    return [part for pair in pairs if pair[1] for part in pair]


def clipped(value: str) -> str:
    """The text, or its beginning if it is above the bound. A lone surrogate, which has no UTF-8 form, becomes ``?``."""
    text = value if len(value) <= MAX_FIELD else value[: MAX_FIELD - 1] + "…"
    return text.encode("utf-8", errors="replace").decode("utf-8")
