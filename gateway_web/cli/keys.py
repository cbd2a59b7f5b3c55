"""``canalgate keys``: API keys that are issued, rotated and revoked while the gateway runs."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.domain.api_key import ApiKeyRecord
from common.domain.errors import InvalidRequest
from common.identity.api_keys import ApiKeys
from common.identity.use import key_warnings
from gateway_web.cli.output import err, errors_as_exit_codes, for_terminal, out, say_json, say_table
from gateway_web.cli.where import Store, store

cli = typer.Typer(help="Issue, list, rotate and revoke API keys.", no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")]

_TIME = re.compile(r"([0-9]{1,9})(s|m|h|d)?", re.ASCII)
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
    where = store(config)
    record, key = _service(where).issue(
        tenant=tenant,
        client=client,
        subject=subject,
        scopes=tuple(scope or ()),
        note=note,
        expires_in=None if expires is None else seconds(expires, "--expires"),
        actor=where.actor,
    )
    for warning in key_warnings(where.settings, tenant):
        err.print(f"note: {warning}", markup=False)
    _show(record, key, as_json=as_json)


@cli.command("list")
@errors_as_exit_codes
def list_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:  # noqa: FBT002
    """List the keys that were issued and not revoked; those of the settings file are not among them."""
    service = _service(store(config))
    records, now = service.list(), service.now()
    if as_json:
        say_json([_row(record, now) for record in records])
        return
    say_table(COLUMNS, [_cells(record, now) for record in records])


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
    where = store(config)
    record, key = _service(where).rotate(key_id, grace=seconds(grace, "--grace"), actor=where.actor)
    _show(record, key, as_json=as_json)


@cli.command("revoke")
@errors_as_exit_codes
def revoke(
    key_id: IdArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit journal.")] = "",
    config: ConfigOption = None,
) -> None:
    """Let a key be good no more. Each web process knows within two seconds."""
    where = store(config)
    record = _service(where).revoke(key_id, actor=where.actor, reason=reason)
    out.print(f"key {record.id} of {for_terminal(record.tenant)}, {for_terminal(record.client)} is revoked")


def seconds(text: str, option: str) -> float:
    """A length of time. Raises :class:`InvalidRequest` that names the option."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"{option} must be a number with s, m, h or d behind it: 90d", field=option)
    return int(found[1]) * _SECONDS[found[2]]


def _service(where: Store) -> ApiKeys:
    return ApiKeys(where.client, where.keys)


def _show(record: ApiKeyRecord, key: str, *, as_json: bool) -> None:
    if as_json:
        say_json({"id": record.id, "key": key, "expires": _time(record.expires_at)})
        return
    sys.stdout.write(key + "\n")
    err.print(f"id {record.id}; the key is shown this once", markup=False)


def _row(record: ApiKeyRecord, now: int) -> dict[str, Any]:
    return {
        "id": record.id,
        "tenant": record.tenant,
        "client": record.client,
        "subject": record.subject,
        "scopes": list(record.scopes),
        "note": record.note,
        "created": _time(record.created_at),
        "created_by": record.created_by,
        "rotated": _time(record.rotated_at),
        "expires": _time(record.expires_at),
        "expired": record.expired(now),
        "old_secret_until": _time(record.previous_until) if record.previous_until > now else None,
    }


def _cells(record: ApiKeyRecord, now: int) -> tuple[str, ...]:
    expires = "never" if record.expires_at is None else str(_time(record.expires_at))
    return (
        record.id,
        record.tenant,
        record.client,
        record.subject,
        " ".join(record.scopes),
        str(_time(record.created_at)),
        "expired" if record.expired(now) else expires,
        record.note,
    )


def _time(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="seconds")
