"""``canalgate keys``: API keys that are issued, rotated and revoked while the gateway runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.domain.errors import InvalidRequest
from gateway_web.cli.connection import control
from gateway_web.cli.control import at, items
from gateway_web.cli.output import errors_as_exit_codes, remark, say, say_json, say_table

cli = typer.Typer(help="Issue, list, rotate and revoke API keys.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]

_TIME = re.compile(r"([0-9]{1,9})(s|m|h|d)?", re.ASCII)
_KEY_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)
_SECONDS = {"s": 1, None: 1, "m": 60, "h": 3600, "d": 86400}
COLUMNS = ("id", "tenant", "client", "subject", "scopes", "created", "expires", "note")


@cli.command("issue")
@errors_as_exit_codes
def issue(
    tenant: Annotated[str, typer.Option("--tenant", help="Tenant whose key it is.")],
    client: Annotated[str, typer.Option("--client", help="Client whose key it is.")],
    subject: Annotated[str, typer.Option("--subject", help="Who is behind the client.")] = "",
    scope: Annotated[list[str] | None, typer.Option("--scope", help="A scope; may be given again.")] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", help="For how long: 90d, 12h, 30m, 10s.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="What it is for, for people.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Make a key and print it, this once: only its digest is kept."""
    asked = {
        "tenant": tenant,
        "client": client,
        "subject": subject,
        "scopes": scope or [],
        "note": note,
        "expires_in": None if expires is None else seconds(expires, "--expires"),
    }
    plane = control(config)
    issued = plane.ask("POST", "/keys", body=asked).body
    for warning in issued["warnings"]:
        remark(f"note: {warning}")
    _show(issued, as_json=as_json)


@cli.command("list")
@errors_as_exit_codes
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the keys that were issued and not revoked; those of the settings file are not among them."""
    found = items(control(config), "/keys")
    if as_json:
        say_json(found)
        return
    say_table(COLUMNS, [_cells(key) for key in found])


@cli.command("rotate")
@errors_as_exit_codes
def rotate(
    key_id: IdArgument,
    grace: Annotated[
        str, typer.Option("--grace", help="For how long the old secret is good as well: 1d, 2h, 30m, 0.")
    ] = "1d",
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Give a key another secret and print it, this once."""
    body = {"grace": seconds(grace, "--grace")}
    _show(control(config).ask("POST", at("keys", _id(key_id), "rotate"), body=body).body, as_json=as_json)


@cli.command("revoke")
@errors_as_exit_codes
def revoke(
    key_id: IdArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit journal.")] = "",
    config: ConfigOption = None,
) -> None:
    """Let a key be good no more. Each web process knows within two seconds."""
    control(config).ask("DELETE", at("keys", _id(key_id)), query={"reason": reason})
    say(f"key {key_id} is revoked")


def seconds(text: str, option: str) -> float:
    """A length of time. Raises :class:`InvalidRequest` that names the option."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{option} must be a number with s, m, h or d behind it: 90d", field=option)
    return int(found[1]) * _SECONDS[found[2]]


def _id(given: str) -> str:
    """The id of a key, and never its secret, which would stand in a URL. Raises :class:`InvalidRequest`."""
    if _KEY_ID.fullmatch(given) is None:
        raise InvalidRequest(
            "the id of a key is the 16 characters that `keys list` shows, not the key itself", field="ID"
        )
    return given


def _show(issued: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(issued)
        return
    say(issued["key"])
    remark(f"id {issued['id']}; the key is shown this once")


def _cells(key: Mapping[str, Any]) -> tuple[str, ...]:
    expires = "never" if key["expires_at"] is None else _time(key["expires_at"])
    return (
        *(key["id"], key["tenant"], key["client"], key["subject"]),
        " ".join(key["scopes"]),
        _time(key["created_at"]),
        "expired" if key["expired"] else expires,
        key["note"],
    )


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
