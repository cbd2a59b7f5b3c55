"""``/admin/v1/dead-letters``: messages that no worker could run. What one says is given on request, and recorded."""

from __future__ import annotations

import base64

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag
from pydantic import Field

from common.calls.dead_letters import ID_FORM, DeadLetter, DeadLetters
from common.identity.operators import Actor, Role
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Answer, Asked
from gateway_web.admin.paging import PageQuery, decoded, encoded
from gateway_web.admin.plane import Plane
from gateway_web.admin.problems import NotThere
from gateway_web.admin.session import acting_as

TAG = Tag(name="dead letters", description="Messages of tool queues that no worker could run.")
MOST_A_PAGE = 50
"""Whatever limit is asked for: each is read and opened whole, up to 64 KiB, for the facts that are shown."""


class LetterPath(Asked):
    """Which one."""

    letter: str = Field(pattern=f"^{ID_FORM}$", max_length=41, description="Its id.")


class Letter(Answer):
    """What is known of a message that could not be run."""

    id: str
    at: str = Field(description="Redis time.")
    reason: str
    detail: str
    queue: str
    node: str = Field(description="The worker that took it.")
    task: str = Field(
        description="Its task, as the message names it; empty for a viewer, since it may be anything."
    )
    task_id: str = Field(description="Likewise.")
    size: int = Field(description="Bytes of the whole message.")
    sha1: str = Field(description="Of the whole message.")
    truncated: bool = Field(description="Whether only its beginning and its end were kept.")


class LetterPage(Answer):
    """A page of them, the newest first."""

    items: list[Letter]
    next_cursor: str | None
    total: int = Field(description="How many there are on all pages.")


class LetterMessage(Answer):
    """The message as it lay in the queue."""

    id: str
    message: str = Field(description="Base64. It may hold the arguments of a call.")


class Dropped(Answer):
    """One that is gone for good."""

    id: str


def add_dead_letters(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of dead letters."""
    letters = DeadLetters(gateway.client, gateway.keys)

    @api.get("/dead-letters", tags=[TAG], responses={200: LetterPage})
    def list_letters(query: PageQuery) -> Response:
        """List them without what is in them, the newest first, at most 50 a page."""
        actor = acting_as(Role.VIEWER)
        before = None if query.cursor is None else decoded(query.cursor)
        limit = min(query.limit, MOST_A_PAGE)
        found = letters.newest(limit + 1, before=before)
        items = found[:limit]
        cursor = encoded(items[-1].id) if len(found) > len(items) else None
        told = [_letter(letter, actor) for letter in items]
        return answer(LetterPage(items=told, next_cursor=cursor, total=letters.count()))

    @api.get("/dead-letters/<letter>", tags=[TAG], responses={200: Letter})
    def get_letter(path: LetterPath) -> Response:
        """Get what is known of one."""
        actor = acting_as(Role.VIEWER)
        return answer(_letter(_found(letters.get(path.letter), path), actor))

    @api.get("/dead-letters/<letter>/message", tags=[TAG], responses={200: LetterMessage})
    def get_letter_message(path: LetterPath) -> Response:
        """Get the message itself. The audit journal says who did."""
        actor = acting_as(Role.ADMIN)
        found = _found(letters.read(path.letter, actor=actor.name), path)
        return answer(LetterMessage(id=found.id, message=base64.b64encode(found.message).decode()))

    @api.delete("/dead-letters/<letter>", tags=[TAG], responses={200: Dropped})
    def drop_letter(path: LetterPath) -> Response:
        """Remove one for good."""
        actor = acting_as(Role.OPERATOR)
        if not letters.drop(path.letter, actor=actor.name):
            _found(None, path)
        return answer(Dropped(id=path.letter))


def _found(letter: DeadLetter | None, path: LetterPath) -> DeadLetter:
    if letter is None:
        raise NotThere(
            f"there is no dead letter {path.letter}; it was dropped, or newer ones took its place",
            field="path.letter",
        )
    return letter


def _letter(letter: DeadLetter, actor: Actor) -> Letter:
    known = {name: getattr(letter, name) for name in Letter.model_fields if name != "at"}
    if not actor.role.may_act_as(Role.OPERATOR):
        known |= {"task": "", "task_id": ""}
    return Letter(**known, at=letter.at.isoformat(timespec="milliseconds"))
