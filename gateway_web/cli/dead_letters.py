"""``canalgate dead-letters``: messages that no worker could run. What they say is shown only on request."""

from __future__ import annotations

import base64
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.calls.dead_letters import checked_letter_id
from gateway_web.cli.connection import control
from gateway_web.cli.control import at, items
from gateway_web.cli.output import errors_as_exit_codes, say, say_json, say_table, say_text

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
    plane = control(config)
    found = items(plane, "/dead-letters", most=most)
    if as_json:
        say_json(found)
        return
    say_table(("id", "at", "queue", "reason", "size", "task id"), [_cells(letter) for letter in found])
    total = plane.ask("GET", "/dead-letters", query={"limit": 1}).body["total"]
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
    plane, place = control(config), _place(letter_id)
    told = plane.ask("GET", place).body
    if message:
        read = base64.b64decode(plane.ask("GET", f"{place}/message").body["message"])
        if not as_json:
            _say_message(read)
            return
        told["message"] = read.decode(errors="replace")  # JSON has no bytes
    if as_json:
        say_json(told)
        return
    for name, value in told.items():
        say(f"{name:<10} {value}")


@cli.command("drop")
@errors_as_exit_codes
def drop(letter_id: IdArgument, config: ConfigOption = None) -> None:
    """Remove one for good."""
    control(config).ask("DELETE", _place(letter_id))
    say(f"{letter_id} dropped")


def _place(letter_id: str) -> str:
    return at("dead-letters", checked_letter_id(letter_id))


def _cells(letter: dict[str, Any]) -> tuple[str, ...]:
    moment = datetime.fromisoformat(letter["at"])
    shown = (letter["queue"], letter["reason"], str(letter["size"]), letter["task_id"])
    return (letter["id"], f"{moment:%Y-%m-%d %H:%M:%S}Z", *shown)


def _say_message(message: bytes) -> None:
    """Byte for byte, except to a terminal, which would obey what is in it."""
    if sys.stdout.isatty():
        say_text(message.decode(errors="replace"))
    else:
        sys.stdout.buffer.write(message)
