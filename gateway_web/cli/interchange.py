"""``canalgate import`` and ``export``: to and from the files of MCP clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml

from common.domain.errors import ConfigurationError
from common.interchange.document import merge_into_yaml
from common.interchange.exporters import to_client, to_mcp_json
from common.interchange.importers import parse
from common.settings import load
from gateway_web.cli.connection import chosen_url, only_here
from gateway_web.cli.output import remark, say, say_text
from gateway_web.cli.where import endpoint


def import_file(
    file: Annotated[Path, typer.Argument(help="mcp.json of Claude, Cursor or VS Code.")],
    source: Annotated[str, typer.Option("--from", help="auto, claude, cursor or vscode.")] = "auto",
    into: Annotated[Path | None, typer.Option("--into", help="Add the tools to this settings file.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace tools of the same id.")] = False,  # noqa: FBT002
) -> None:
    """Turn a client's MCP server list into tools; prints YAML, or adds it to a settings file."""
    found = parse(_read(file), source=source)
    for note in found.notes:
        remark(f"note: {note}")
    if found.inputs:
        remark(f"set these in the environment: {', '.join(found.inputs)}")
    if into is None:
        say_text(yaml.safe_dump({"tools": found.entries}, sort_keys=False).rstrip())
        return
    text = _read(into) if into.exists() else ""
    merged = merge_into_yaml(text, found.entries, replace=replace)
    if not into.exists():
        into.touch(mode=0o600)  # what is imported may hold tokens
    into.write_text(merged, encoding="utf-8")
    say(f"{len(found.entries)} tools added to {into}")


def export(
    client: Annotated[str, typer.Option("--for", help="claude, cursor or vscode.")] = "claude",
    tools: Annotated[bool, typer.Option("--tools", help="The tools themselves, not the gateway.")] = False,  # noqa: FBT002
    config: Annotated[Path | None, typer.Option("--config", help="Settings file (for --tools).")] = None,
) -> None:
    """Print an entry for a client's mcp.json that points at the gateway, or the tools as such entries."""
    if not tools:
        say_text(to_client("canalgate", endpoint(chosen_url()), {}, flavour=client).rstrip())
        return
    only_here()
    exported = to_mcp_json(load(config).tools, client)
    for note in exported.notes:
        remark(f"note: {note}")
    if exported.variables:
        remark(f"set these in the environment: {', '.join(exported.variables)}")
    say_text(exported.text.rstrip())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from None
