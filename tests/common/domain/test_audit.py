"""Events of the audit journal as flat text."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from common.domain.audit import FIELDS, MAX_FIELD, AuditEvent, AuditRecord, EventKind, clipped, event_fields

# Fixed here on purpose: whoever reads the journal relies on these words.
KINDS = {
    *("tool_registered", "tool_updated", "tool_removed", "tool_enabled", "tool_disabled", "tool_drained"),
    *("tool_undrained", "circuit_state_change", "circuit_reset", "circuit_tripped", "health_transition"),
    *("tool_quarantined", "definition_changed", "definition_approved", "definition_rejected", "tool_flagged"),
    *("session_created", "session_recovered", "session_closed", "node_lost", "invocation_lost"),
    *("dead_letter_read", "dead_letter_dropped"),
    *("invocation_cancelled", "tenant_changed", "tenant_removed"),
    *(
        "tool_refused",
        "tool_retired",
        "tool_kept",
        "discovery_refused",
        "settings_reloaded",
        "settings_refused",
    ),
    *("policy_decision", "invocation_start", "invocation_complete", "invocation_failed", "journal_gap"),
    *("credential_resolution", "credentials_flushed", "credentials_rotated"),
    *("api_key_issued", "api_key_rotated", "api_key_revoked", "identity_failure", "admin_refused"),
}


def test_the_kinds_are_the_ones_that_readers_know() -> None:
    """Each word and each name."""
    assert {kind.value for kind in EventKind} == KINDS
    assert all(kind.name.lower() == kind.value for kind in EventKind)


def test_the_document_names_every_kind() -> None:
    """Readers of the journal look there what a word means."""
    document = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [kind.value for kind in EventKind if f"`{kind.value}`" not in document] == []


def test_an_event_is_names_and_values_in_turn() -> None:
    """In the order of the fields, and nothing for what is empty."""
    event = AuditEvent(kind=EventKind.NODE_LOST, node="n", detail="3 calls")
    assert event_fields(event) == ["kind", "node_lost", "node", "n", "detail", "3 calls"]


def test_every_field_is_written() -> None:
    """By its own name."""
    names = [field.name for field in fields(AuditEvent)]
    event = AuditEvent(kind=EventKind.TOOL_UPDATED, **{name: f"<{name}>" for name in names[1:]})
    told = event_fields(event)
    assert told == ["kind", "tool_updated", *(part for name in names[1:] for part in (name, f"<{name}>"))]
    assert told[::2] == list(FIELDS)


@pytest.mark.parametrize("length", [MAX_FIELD - 1, MAX_FIELD, MAX_FIELD + 1, 10 * MAX_FIELD])
def test_a_long_value_is_cut(length: int) -> None:
    """And it is seen that it was."""
    shown = clipped("x" * length)
    assert len(shown) == min(length, MAX_FIELD)
    assert shown.endswith("…") == (length > MAX_FIELD)


def test_text_without_a_utf_8_form_is_written_as_far_as_it_has_one() -> None:
    """The event matters more than one character."""
    assert clipped("a\ud800b") == "a?b"


def test_a_record_of_a_newer_writer_keeps_its_word() -> None:
    """It is shown as it is."""
    assert AuditRecord(id="1-0", at=1, fields={"kind": "moon_landing"}).kind == "moon_landing"
    assert AuditRecord(id="1-0", at=1, fields={}).kind == ""
