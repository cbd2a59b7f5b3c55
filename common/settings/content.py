"""How definitions are guarded: the words that the section ``runtime`` and the tools share."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

from common.domain.content_rules import ContentRules, HiddenCharacters, Pinning
from common.settings.fields import LowerCase

PinningWord = Annotated[Literal["off", "warn", "quarantine"], LowerCase]
HiddenWord = Annotated[Literal["reject", "strip", "warn"], LowerCase]

PINNING_TEXT = (
    "What becomes of a definition that is another than the approved one. warn: it is audited. quarantine: it is kept "
    "from clients until an operator approves it. off: definitions are not compared."
)
APPROVE_FIRST_TEXT = (
    "With pinning quarantine: True withholds all that no operator has approved; "
    "False trusts the first definition of a name."
)
HIDDEN_TEXT = (
    "What becomes of definitions with invisible or control characters. strip: they are taken out of descriptions and "
    "titles; one that has them elsewhere is rejected. reject: it is kept from clients. warn: it is flagged."
)


class _Entry(Protocol):
    @property
    def pinning(self) -> str | None: ...
    @property
    def approve_first(self) -> bool | None: ...
    @property
    def hidden_characters(self) -> str | None: ...


class _Common(Protocol):
    @property
    def pinning(self) -> str: ...
    @property
    def approve_first(self) -> bool: ...
    @property
    def hidden_characters(self) -> str: ...


def rules_of(entry: _Entry, common: _Common) -> ContentRules:
    """The rules of a tool: its own, and for what it leaves out those of ``runtime``.

    An inherited ``approve_first`` gives way to a pinning with which it means nothing. Raises :class:`InvalidRequest`.
    """
    pinning = Pinning(entry.pinning or common.pinning)
    inherited = common.approve_first and pinning is Pinning.QUARANTINE
    return ContentRules(
        pinning=pinning,
        approve_first=inherited if entry.approve_first is None else entry.approve_first,
        hidden_characters=HiddenCharacters(entry.hidden_characters or common.hidden_characters),
    )
