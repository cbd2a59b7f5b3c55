"""``canalgate dead-letters``: messages that no worker could run. What they say is shown only on request."""

from __future__ import annotations

import sys
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer

from common.calls.dead_letters import DeadLetter, DeadLetters
from common.domain.errors import InvalidRequest
from gateway_web.cli.control import ControlRefused
from gateway_web.cli.output import errors_as_exit_codes, say, say_json, say_table, say_text
from gateway_web.cli.where import store

cli = typer.Typer(help="List, show and drop messages that no worker could run.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `dead-letters list` shows it.")]


@cli.command("list")
@errors_as_exit_codes
def list_letters(
    config: ConfigOption = None,
    most: Annotated[int, typer.Option("--most", min=1, help="How many, the newest first.")] = 50,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """List the newest, without what is in them."""
    letters = _letters(config)
    found = letters.newest(most)
    if as_json:
        say_json([_row(letter) for letter in found])
        return
    say_table(("id", "at", "queue", "reason", "size", "task id"), [_cells(letter) for letter in found])
    total = letters.count()
    if total > len(found):
        say(f"{len(found)} of {total}; --most shows more")


@cli.command("show")
@errors_as_exit_codes
def show(
    letter_id: IdArgument,
    config: ConfigOption = None,
    message: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--message", help="Print the message itself, and nothing else: it may hold arguments."),
    ] = False,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Show what is known of one, or the message as it lay in the queue."""
    letter = _letters(config).get(letter_id)
    if letter is None:
        raise _none(letter_id)
    if as_json:
        say_json(_row(letter) | ({"message": _text(letter)} if message else {}))
    elif message:
        _say_message(letter)
    else:
        for name, value in _row(letter).items():
            say(f"{name:<10} {value}")


@cli.command("drop")
@errors_as_exit_codes
def drop(letter_id: IdArgument, config: ConfigOption = None) -> None:
    """Remove one for good."""
    if not _letters(config).drop(letter_id):
        raise _none(letter_id)
    say(f"{letter_id} dropped")


def _letters(config: Path | None) -> DeadLetters:
    where = store(config)
    return DeadLetters(where.client, where.keys)


def _none(letter_id: str) -> ControlRefused:
    return ControlRefused(
        f"there is no dead letter {letter_id}; it was dropped, or newer ones took its place",
        status=HTTPStatus.NOT_FOUND,
        code=InvalidRequest.code,
    )


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "at": letter.at.isoformat(timespec="milliseconds"),
        "reason": letter.reason,
        "detail": letter.detail,
        "queue": letter.queue,
        "node": letter.node,
        "task": letter.task,
        "task_id": letter.task_id,
        "size": letter.size,
        "sha1": letter.sha1,
        "truncated": letter.truncated,
    }


def _cells(letter: DeadLetter) -> tuple[str, ...]:
    at = f"{letter.at:%Y-%m-%d %H:%M:%S}Z"
    return (letter.id, at, letter.queue, letter.reason, str(letter.size), letter.task_id)


def _say_message(letter: DeadLetter) -> None:
    """Byte for byte, except to a terminal, which would obey what is in it."""
    if sys.stdout.isatty():
        say_text(_text(letter))
    else:
        sys.stdout.buffer.write(letter.message)


def _text(letter: DeadLetter) -> str:
    """The message in JSON's alphabet: bytes that are no UTF-8 are shown as replacement characters."""
    return letter.message.decode(errors="replace")
