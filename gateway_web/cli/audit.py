"""``canalgate audit``: what happened to tools, sessions and calls, who did it, and whether its record is whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from common.audit.chain_store import ChainStore
from common.audit.journal import Journal
from common.audit.verify import Finding, verify_file, verify_redis, verify_table
from common.domain.audit import AuditRecord
from common.domain.audit_chain import Position
from common.domain.errors import ConfigurationError, InvalidRequest
from common.settings import Settings, load
from common.settings.audit_sinks import FileOptions, PostgresOptions
from gateway_web.cli.output import Exit, errors_as_exit_codes, for_terminal, out, say_json
from gateway_web.cli.where import store

cli = typer.Typer(help="Show the audit journal, and prove that it is whole.", invoke_without_command=True)
MOST = 100_000
SHOWN_PROBLEMS = 50
_FIRST = frozenset({"kind", "at"})
_SPAN = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filter:
    """Which events are wanted; empty: any."""

    tenant: str
    tool: str
    kinds: tuple[str, ...]

    def __call__(self, record: AuditRecord) -> bool:
        fields = record.fields
        return (
            (not self.tenant or fields.get("tenant") == self.tenant)
            and (not self.tool or fields.get("tool") == self.tool)
            and (not self.kinds or record.kind in self.kinds)
        )


@cli.callback()
@errors_as_exit_codes
def audit(
    context: typer.Context,
    most: Annotated[
        int, typer.Option("-n", "--most", min=1, max=MOST, help="How many, the newest first.")
    ] = 50,
    tenant: Annotated[str, typer.Option("--tenant", help="Only events of this tenant.")] = "",
    tool: Annotated[str, typer.Option("--tool", help="Only events of this tool.")] = "",
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
    where = store(config)
    journal = Journal(where.client, where.keys)
    chosen = _Filter(tenant=tenant, tool=tool, kinds=tuple(kind or ()))
    begin = _since(since, where.client.time()[0])
    last = journal.newest_id()
    records = journal.newest(most, since=begin, chosen=chosen)
    if not follow:
        _say(records, as_json=as_json)
        return
    known = {record.id for record in records}
    for record in reversed(records):
        _say_line(record, as_json=as_json)
    try:
        for record in journal.subscribe(last, chosen=lambda found: found.id not in known and chosen(found)):
            _say_line(record, as_json=as_json)
    except KeyboardInterrupt:
        return


@cli.command("verify")
@errors_as_exit_codes
def verify(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Files of a file sink.")
    ] = None,
    redis: Annotated[bool, typer.Option("--redis", help="What Redis holds.")] = False,  # noqa: FBT002
    sink: Annotated[
        str, typer.Option("--sink", help="The file or postgres sink of this name, up to where it must reach.")
    ] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,  # noqa: FBT002
) -> None:
    """Prove that records are whole, unchanged and in order. Ends with 1 if they are not.

    The key is that of the settings (audit.chain_key). A file is read with the rotated ones beside it.
    """
    settings = load(config)
    key = settings.audit.chain_key
    secret = b"" if key is None else key.get_secret_value().encode()
    findings = [verify_file(path, secret) for path in files or ()]
    if redis or sink:
        where = store(config)
        chain = ChainStore(where.client, where.keys)
        if sink:
            findings.append(_verify_sink(settings, sink, secret, chain.state().sinks.get(sink)))
        if redis:
            findings.append(verify_redis(chain, secret))
    if not findings:
        raise InvalidRequest("say what to verify: a file, --redis, or --sink NAME", field="files")
    _report(findings, as_json=as_json)
    if not all(finding.sound for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _verify_sink(settings: Settings, name: str, secret: bytes, safe: Position | None) -> Finding:
    for sink in settings.audit.sinks:
        if sink.name == name:
            if isinstance(sink.options, FileOptions):
                return verify_file(Path(sink.options.path), secret, safe=safe)
            if isinstance(sink.options, PostgresOptions):
                return verify_table(sink.options, secret, safe=safe)
            raise ConfigurationError(f"the sink {name!r} is no file and no postgres sink", field="sink")
    raise ConfigurationError(f"audit.sinks has no sink {name!r}", field="sink")


def _report(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        say_json([_plain(finding) for finding in findings])
        return
    for finding in findings:
        state = "whole" if finding.sound else f"{finding.flaws} flaws"
        again = f", {finding.repeated} repeated" if finding.repeated else ""
        out.print(
            for_terminal(
                f"{finding.place}: {state}; {finding.records} records, {finding.first} to {finding.last}{again}"
            )
        )
        for problem in finding.problems[:SHOWN_PROBLEMS]:
            out.print(for_terminal(f"  {problem.flaw.value}: {problem.text}"))


def _plain(finding: Finding) -> dict[str, Any]:
    return {
        "place": finding.place,
        "sound": finding.sound,
        "records": finding.records,
        "first": finding.first,
        "last": finding.last,
        "repeated": finding.repeated,
        "flaws": finding.flaws,
        "problems": [
            {"flaw": problem.flaw.value, "seq": problem.seq, "text": problem.text}
            for problem in finding.problems
        ],
    }


def _since(text: str, now: int) -> int | None:
    """Redis ms of the earliest event wanted."""
    if not text:
        return None
    span = _SPAN.fullmatch(text)
    if span:
        return (now - int(span[1]) * _UNITS[span[2]]) * 1000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError("--since must be 30s, 10m, 2h, 7d, or a time as 2026-01-31T12:00") from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def _say(records: Iterable[AuditRecord], *, as_json: bool) -> None:
    if as_json:
        say_json([_members(record) for record in records])
        return
    for record in records:
        out.print(for_terminal(_line(record)))


def _say_line(record: AuditRecord, *, as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(_members(record)).decode())
    else:
        out.print(for_terminal(_line(record)))


def _members(record: AuditRecord) -> dict[str, str]:
    return {**record.fields, "id": record.id, "at": _time(record)}


def _line(record: AuditRecord) -> str:
    told = [f"{name}={value}" for name, value in record.fields.items() if name not in _FIRST and value]
    return " ".join([_time(record), record.kind, *told])


def _time(record: AuditRecord) -> str:
    return datetime.fromtimestamp(record.at / 1000, UTC).isoformat(timespec="milliseconds")
