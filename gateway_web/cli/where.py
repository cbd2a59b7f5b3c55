"""Which gateway, and which Redis, a command means."""

from __future__ import annotations

import getpass
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from common.domain.errors import StoreUnavailable
from common.settings import Settings, load
from common.store.client import Client, StoreAddress, address_of, connect
from common.store.key_ring import keys_of
from common.store.keys import Keys
from gateway_web.cli.connection import chosen_ca_file, only_here, trusting
from gateway_web.listener_tls import own_context
from gateway_web.supervisor import running_instance, state_dir_path
from gateway_web.wsgi_address import authority

ANY = "0.0.0.0"  # noqa: S104 - compared with


def endpoint(url: str | None) -> str:
    """The MCP endpoint: as given, else that of the gateway that runs here, else that of the settings."""
    if url:
        base = url.partition("/servers/")[0].rstrip("/")
        return base if base.endswith("/mcp") else f"{base}/mcp"
    running = running_instance(state_dir_path(os.environ))
    if running is not None:
        return running.endpoint
    web = load().web
    scheme = "http" if web.tls_cert_file is None else "https"
    return f"{scheme}://{authority('127.0.0.1' if web.host == ANY else web.host, web.port)}/mcp"


def trust(url: str | None) -> ssl.SSLContext | bool:
    """Whom to trust at :func:`endpoint`: those of ``--ca-file``, else the settings' own certificate on this machine.

    Elsewhere, and without one, the system's authorities.
    """
    named = chosen_ca_file()
    own = None if url or named is not None else own_context(load().web)
    if named is not None or (url or "").startswith("https:"):
        return trusting(named)
    return own or True


def tool_endpoint(url: str | None, tool: str) -> str:
    """The endpoint of one tool."""
    from urllib.parse import quote

    return endpoint(url).removesuffix("/mcp") + f"/servers/{quote(tool, safe='')}/mcp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A connection for the commands that read or change the registry."""

    settings: Settings
    client: Client
    keys: Keys

    @property
    def actor(self) -> str:
        """Who makes a change by this command line, for the audit journal: the user of the operating system."""
        try:
            return f"cli:{getpass.getuser()}"
        except (KeyError, OSError):
            return f"cli:uid {os.getuid()}"  # a container may run under a number without a name


def store(config: Path | None) -> Store:
    """Redis as the settings say, else as the gateway that runs from this state directory says.

    Raises :class:`~common.domain.errors.ConfigurationError` for settings that are not valid and for a verb that was
    given a gateway elsewhere, and :class:`StoreUnavailable` if neither says any.
    """
    only_here()
    settings = load(config)
    url = None if settings.redis.url is None else address_of(settings.redis).url
    if url is None:
        running = running_instance(state_dir_path(os.environ))
        if running is None:
            raise StoreUnavailable(
                "no gateway runs from this state directory and redis.url is not set: start one with "
                "`canalgate up`, or name its Redis in CANALGATE_REDIS__URL",
                field="redis.url",
            )
        url = running.redis_url
    return Store(settings=settings, client=connect(StoreAddress(url=url)), keys=keys_of(settings.redis))
