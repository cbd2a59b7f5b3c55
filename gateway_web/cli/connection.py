"""Which control plane a verb speaks to: with ``canalgate --url ...`` a gateway's admin API, else Redis itself."""

from __future__ import annotations

import os
import ssl
from contextvars import ContextVar
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.tls import TlsFileError, client_context
from gateway_web.cli.control import ControlClient
from gateway_web.cli.output import errors_as_exit_codes, remark
from gateway_web.supervisor import running_instance, state_dir_path

DEFAULT_TIMEOUT = 30.0
MAX_TOKEN = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """What the options that name a gateway say. ``typed`` are the names of those that stand in the line itself.

    ``timeout`` is in seconds; None: as is usual for the verb.
    """

    url: str | None = None
    token: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout: float | None = None
    typed: frozenset[str] = frozenset()


_chosen: ContextVar[Remote] = ContextVar("remote", default=Remote())  # noqa: B039 - frozen


@errors_as_exit_codes
def choose(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", envvar="CANALGATE_URL", help="The gateway's address; without it: the one here."
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", envvar="CANALGATE_TOKEN_FILE", help="File that holds a token, as --token."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=["CANALGATE_ADMIN_TOKEN", "CANALGATE_TOKEN"],
            show_envvar=True,
            help="A token of admin.tokens; for `call` that of an MCP client. Others see it in the list of "
            "processes: rather use --token-file.",
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file", envvar="CANALGATE_CA_FILE", help="Authorities to trust, in PEM, for https."
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer; 30, of `call` 60."),
    ] = None,
) -> None:
    """Keep what the options before the verb say, for the verb."""
    given: dict[str, Any] = {
        "url": url,
        "token_file": token_file,
        "token": token,
        "ca_file": ca_file,
        "timeout": timeout,
    }
    typed = [name for name in given if _typed(context, name)]
    _chosen.set(Remote(**{name: value for name, value in given.items() if name not in typed}))
    for name in typed:
        also(name, given[name])


def also(name: str, value: Any) -> None:
    """Take one of the options as it was typed, before the verb or behind it.

    Raises :class:`ConfigurationError` if it was typed before with another value, or if it does not go with another.
    """
    found = _chosen.get()
    option = f"--{name.replace('_', '-')}"
    if name in found.typed and getattr(found, name) != value:
        raise ConfigurationError(
            f"{option} is given twice, before the verb and behind it: leave one out", field=option
        )
    typed = found.typed | {name}
    if {"token", "token_file"} <= typed:
        raise ConfigurationError(
            "--token and --token-file do not go together: give one of them", field="--token"
        )
    if name == "token" and name not in found.typed:
        warn_of_typed("--token")
    other = {"token": "token_file", "token_file": "token"}.get(name)
    _chosen.set(replace(found, typed=typed, **{name: value}, **({other: None} if other else {})))


def warn_of_typed(option: str) -> None:
    """Say that a secret was written where all users of the machine read it."""
    remark(
        f"warning: {option} shows the token to everybody who can list processes; use --token-file, or the variable "
        "CANALGATE_ADMIN_TOKEN (CANALGATE_TOKEN for that of an MCP client)"
    )


def warn_of_clear(what: str, url: str) -> None:
    """Say that a secret is sent in the clear, if it leaves this machine so."""
    if urlsplit(url).scheme == "http" and not loopback(url):
        remark(f"warning: the {what} goes over the network unencrypted; use https://")


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def chosen_url() -> str | None:
    """The address that was given, or that of the environment; None: this machine's gateway is meant."""
    return _chosen.get().url


def chosen_timeout(usual: float) -> float:
    """Seconds to wait for an answer."""
    given = _chosen.get().timeout
    return usual if given is None else given


def chosen_ca_file() -> Path | None:
    """The authorities that are named; None: the system's."""
    return _chosen.get().ca_file


def client_token() -> str | None:
    """The credential of an MCP client: what was typed, else the variable for it, never that of an admin token."""
    found = _chosen.get()
    if "token_file" in found.typed and found.token_file is not None:
        return read_token(found.token_file)
    if "token" in found.typed and found.token is not None:
        return _checked(found.token, "--token")
    return os.environ.get("CANALGATE_TOKEN") or None


def only_here(instead: str = "") -> None:
    """Raise :class:`ConfigurationError` if a verb that acts on this machine was given a gateway elsewhere.

    ``instead`` says what acts on one.
    """
    if "url" in _chosen.get().typed:
        raise ConfigurationError(
            f"this verb is of this machine's gateway alone: leave --url out{instead and f'; {instead}'}",
            field="--url",
        )


def control(config: Path | None = None) -> ControlClient:
    """The control plane that is meant. Raises :class:`ConfigurationError` for options that do not go together.

    ``config`` is the verb's own ``--config``: settings of this machine, and so its Redis.
    """
    remote = _chosen.get()
    if remote.url and config is not None and "url" in remote.typed:
        raise ConfigurationError(
            "--config names settings of this machine, and --url a gateway: leave one of them out",
            field="--config",
        )
    if not remote.url or config is not None:
        from gateway_web.cli.local_control import local_control

        return local_control(config)
    return control_at(remote)


def control_at(remote: Remote) -> ControlClient:
    """The control plane of the gateway that these options name."""
    from gateway_web.cli.http_control import HttpControl

    base = base_url(remote.url or "")
    token = _token(remote, base)
    secure = base.startswith("https:")
    if token is not None:
        warn_of_clear("token", base)
    tls = trusting(remote.ca_file) if secure else True
    return HttpControl(base, token, timeout=remote.timeout or DEFAULT_TIMEOUT, tls=tls)


def base_url(url: str) -> str:
    """A gateway's own address, whichever of its paths was given. Raises :class:`ConfigurationError`."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"--url is no address: {error}", field="--url") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigurationError(
            "--url must be the gateway's address, as https://gateway.example/", field="--url"
        )
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError(
            "--url must hold neither a user nor a query: a token is given with --token-file", field="--url"
        )
    path = parts.path.rstrip("/")
    for suffix in ("/admin/v1", "/mcp"):
        path = path.removesuffix(suffix)
    return f"{parts.scheme}://{parts.netloc}{path}"


def _token(remote: Remote, base: str) -> str | None:
    """As given, else that of the gateway that runs here, if that is the one meant."""
    if remote.token_file is not None:
        return read_token(remote.token_file)
    if remote.token is not None:
        return _checked(remote.token, "--token")
    running = running_instance(state_dir_path(os.environ))
    if running is None or running.admin_token_file is None or base_url(running.endpoint) != base:
        return None
    return read_token(Path(running.admin_token_file))


def read_token(file: Path, option: str = "--token-file") -> str:
    """The token in a file, without the line's end. Raises :class:`ConfigurationError` that never shows it."""
    try:
        text = file.read_text(encoding="utf-8")[: MAX_TOKEN + 1].strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{option}: cannot read {file}: {why}", field=option) from None
    return _checked(text, f"{option} {file}")


def _checked(token: str, where: str) -> str:
    if not token or len(token) > MAX_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            f"{where}: this is no token: one line of visible ASCII is wanted", field="--token"
        )
    return token


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Trust in these authorities, or in the system's. Raises :class:`ConfigurationError`."""
    try:
        return client_context(TlsRules(ca_file=None if ca_file is None else str(ca_file)))
    except TlsFileError as error:
        raise ConfigurationError(f"--ca-file: {error}", field="--ca-file") from None


def loopback(url: str) -> bool:
    """Whether an address is one of this machine alone."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
