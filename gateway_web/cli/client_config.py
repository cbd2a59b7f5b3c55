"""``canalgate client-config``: the entry that makes an MCP client use the gateway, in the client's own format."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from common.domain.errors import ConfigurationError
from common.interchange.client_config import FILES, ClientKind, Key, entry_name, merged, rendered
from gateway_web.cli.completion import tool_ids
from gateway_web.cli.connection import chosen_url, read_token, warn_of_clear
from gateway_web.cli.output import remark, say, say_text
from gateway_web.cli.where import endpoint, tool_endpoint

KINDS = ", ".join(ClientKind)
PATIENCE = 1.0
"""Seconds to wait for a gateway on this machine to take a connection."""
_NAME = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def client_config(
    client: Annotated[
        str, typer.Option("--for", help=f"One of {KINDS}.", autocompletion=lambda: list(ClientKind))
    ],
    tool: Annotated[
        list[str] | None,
        typer.Option(
            "--tool", help="Only this tool, by its own names; again for more.", autocompletion=tool_ids
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of the entry; tools are put behind it.")
    ] = "canalgate",
    key_env: Annotated[
        str | None, typer.Option("--key-env", help="Variable from which the client reads its API key.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option("--key-file", help="Put the API key in this file into the entry itself.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put it into the client's file.")] = False,  # noqa: FBT002
    file: Annotated[Path | None, typer.Option("--file", help="The client's file, with --write.")] = None,
    replace: Annotated[  # noqa: FBT002
        bool, typer.Option("--replace", help="Replace an entry of the same name (not in TOML).")
    ] = False,
) -> None:
    """Print the entry for a client, or put it into the client's file. The key is named by its variable, not shown."""
    kind = _kind(client)
    if key_env is not None and key_file is not None:
        raise ConfigurationError("--key-env and --key-file do not go together", field="--key-file")
    if file is not None and not write:
        raise ConfigurationError("--file goes with --write", field="--file")
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError("--name must be of letters, digits, - and _", field="--name")
    key = Key(variable=key_env, literal=None if key_file is None else read_token(key_file, "--key-file"))
    endpoints = _endpoints(tool or [], name)
    _warn(endpoints, key)
    _warn_of_silence(next(iter(endpoints.values())))
    if not write:
        say_text(rendered(kind, endpoints, key).rstrip())
        return
    place = (file or _own_file(kind)).expanduser()
    changed = _put(place, kind, endpoints, key, replace=replace)
    say(f"{place}: {', '.join(endpoints)} {'added' if changed else 'is there already'}")
    if key.variable is not None:
        remark(f"the client reads its key from {key.variable}: set it where the client starts")


def _kind(client: str) -> ClientKind:
    try:
        return ClientKind(client)
    except ValueError:
        raise ConfigurationError(f"--for must be one of {KINDS}, not {client!r}", field="--for") from None


def _endpoints(tools: list[str], name: str) -> dict[str, str]:
    """URLs by the names of entries. Raises :class:`ConfigurationError` if two tools would have the same name."""
    if not tools:
        return {name: endpoint(chosen_url())}
    found = {entry_name(tool, name): tool_endpoint(chosen_url(), tool) for tool in dict.fromkeys(tools)}
    if len(found) != len(set(tools)):
        raise ConfigurationError(
            "two of the tools would have the same name: write them one by one", field="--tool"
        )
    return found


def _warn(endpoints: dict[str, str], key: Key) -> None:
    if key != Key():
        warn_of_clear("key", next(iter(endpoints.values())))


def _warn_of_silence(url: str) -> None:
    """Say that the address was guessed from the settings, if no gateway of this machine answers there."""
    if chosen_url() or _listens(url):
        return
    remark(
        f"warning: nothing runs at {url} now, which is the address of the settings: start it with `canalgate up`, or "
        "name a gateway with --url"
    )


def _listens(url: str) -> bool:
    parts = urlsplit(url)
    usual = 443 if parts.scheme == "https" else 80
    try:
        socket.create_connection((parts.hostname or "", parts.port or usual), PATIENCE).close()
    except OSError:
        return False
    return True


def _own_file(kind: ClientKind) -> Path:
    home = os.environ.get("CODEX_HOME") if kind is ClientKind.CODEX else None
    return Path(home) / "config.toml" if home else Path(FILES[kind])


def _put(place: Path, kind: ClientKind, endpoints: dict[str, str], key: Key, *, replace: bool) -> bool:
    """Whether the file is another now. It is written whole or not at all; with a key in it, for its owner alone."""
    place = place.resolve()  # a link stays one
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {place}: {error}", field="--file") from None
    new = merged(kind, text, endpoints, key, replace=replace)
    if new == text:
        return False
    mode = 0o600 if key.literal is not None else place.stat().st_mode & 0o777 if text else 0o644
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.canalgate")
    try:
        with open(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
        ) as written:
            written.write(new)
        draft.chmod(mode)
        draft.replace(place)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return True
