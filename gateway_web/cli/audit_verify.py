"""``canalgate audit verify``: are records whole, unchanged and in order. It reads files, tables and Redis itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from common.audit.chain_store import ChainStore
from common.audit.verify import Finding, verify_file, verify_redis, verify_table
from common.domain.audit_chain import Position
from common.domain.errors import ConfigurationError, InvalidRequest
from common.settings import Settings, load
from common.settings.audit_sinks import FileOptions, PostgresOptions
from gateway_web.cli.output import Exit, say, say_json
from gateway_web.cli.where import store

SHOWN_PROBLEMS = 50
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
        say(f"{finding.place}: {state}; {finding.records} records, {finding.first} to {finding.last}{again}")
        for problem in finding.problems[:SHOWN_PROBLEMS]:
            say(f"  {problem.flaw.value}: {problem.text}")


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
