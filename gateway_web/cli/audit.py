"""``canalgate audit``: what happened to tools, sessions and calls, who did it, and whether its record is whole."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from common.domain.errors import ConfigurationError, GatewayError, StoreUnavailable
from gateway_web.cli import audit_verify
from gateway_web.cli.completion import tool_ids
from gateway_web.cli.connection import control
from gateway_web.cli.control import ControlClient, Query, ServerEvent, items, status_of
from gateway_web.cli.output import errors_as_exit_codes, json_text, remark, say, say_json

cli = typer.Typer(help="Show the audit journal, and prove that it is whole.", invoke_without_command=True)
cli.command("verify")(errors_as_exit_codes(audit_verify.verify))
MOST = 100_000
COMES_BACK = 2.0
"""Seconds until a stream that broke is asked for again."""
_FIRST = frozenset({"kind", "at", "id"})
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Event = dict[str, str]

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; with --follow one event a line.")]


@cli.callback()
@errors_as_exit_codes
def audit(
    context: typer.Context,
    most: Annotated[
        int, typer.Option("-n", "--most", min=1, max=MOST, help="How many, the newest first.")
    ] = 50,
    tenant: Annotated[str, typer.Option("--tenant", help="Only events of this tenant.")] = "",
    tool: Annotated[
        str, typer.Option("--tool", help="Only events of this tool.", autocompletion=tool_ids)
    ] = "",
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="Only events of this kind; again for more.")
    ] = None,
    since: Annotated[
        str, typer.Option("--since", help="Only events since then: 30s, 10m, 2h, 7d, or 2026-01-31T12:00.")
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,  # noqa: FBT002
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Print the newest events of the audit journal, one a line; with --follow the oldest of them first."""
    if context.invoked_subcommand is not None:
        return
    chosen = {"tenant": tenant or None, "tool": tool or None, "kind": kind or []}
    query = {**chosen, "since": _since(since)}
    plane = control(config)
    if not follow:
        _say(_newest(plane, query, most), as_json=as_json)
        return
    try:
        _follow(plane, query, chosen, most, as_json=as_json)
    except KeyboardInterrupt:
        return


def _newest(plane: ControlClient, query: Query, most: int) -> list[Event]:
    return [_flat(entry) for entry in items(plane, "/audit", query=query, most=most)]


def _follow(plane: ControlClient, query: Query, chosen: Query, most: int, *, as_json: bool) -> None:
    """The newest events, then what comes, each once. A stream that breaks is taken up again where it ended.

    The stream is opened before the list is read, so that nothing falls between the two.
    """
    known: set[str] = set()
    after: str | None = None
    begun = False
    while True:
        try:
            with plane.events("/audit/stream", query=chosen, after=after) as events:
                if not begun:
                    newest = _newest(plane, query, most)
                    known = {event["id"] for event in newest}
                    for event in reversed(newest):
                        _say_line(event, as_json=as_json)
                    begun = True
                for happened in events:
                    after = happened.id or after
                    _tell(happened, known, as_json=as_json)
        except GatewayError as error:
            if not begun or not _passes(error):
                raise
            remark(f"note: {error.message}; trying again")
        time.sleep(COMES_BACK)


def _passes(error: GatewayError) -> bool:
    """Whether it may go another time: nobody answers, or it failed there."""
    return isinstance(error, StoreUnavailable) or (status_of(error) or 0) >= 429


def _tell(happened: ServerEvent, known: set[str], *, as_json: bool) -> None:
    if happened.kind == "gap":
        remark(f"note: Redis no longer holds the events up to {happened.data['upto']}: ask a sink for them")
    elif happened.kind == "audit" and happened.id not in known:
        _say_line(_flat(happened.data), as_json=as_json)


def _since(text: str) -> str | None:
    """The time of the earliest event wanted, by this machine's clock."""
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span:
        return (datetime.now(UTC) - timedelta(seconds=int(span[1]) * _UNITS[span[2]])).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("--since must be 30s, 10m, 2h, 7d, or a time as 2026-01-31T12:00") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).isoformat()


def _flat(entry: dict[str, Any]) -> Event:
    return {**entry["event"], "id": entry["id"], "at": entry["time"]}


def _say(events: Iterable[Event], *, as_json: bool) -> None:
    if as_json:
        say_json(list(events))
        return
    for event in events:
        say(_line(event))


def _say_line(event: Event, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_text(event))
    else:
        say(_line(event))


def _line(event: Event) -> str:
    told = [f"{name}={value}" for name, value in event.items() if name not in _FIRST and value]
    return " ".join([event["at"], event["kind"], *told])
