"""A Redis address taken apart for connections of our own."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
from redis.connection import parse_url

from common.domain.errors import ConfigurationError
from common.domain.tls import TlsRules
from common.store.client import NO_URL, StoreAddress
from common.store.scripts import Arg
from common.tls import KeptContext, TlsFileError, client_context

_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsParts:
    """How the other end is trusted, in redis-py's words; ``verify`` is "none", "optional" or "required"."""

    cafile: str | None = None
    verify: str = "required"
    check_hostname: bool = True
    certfile: str | None = None
    keyfile: str | None = None
    min_version: str = "1.2"

    @property
    def rules(self) -> TlsRules:
        """The same, without what weakens it."""
        return TlsRules(
            ca_file=self.cafile, cert_file=self.certfile, key_file=self.keyfile, min_version=self.min_version
        )

    def context(self) -> ssl.SSLContext:
        """As Python's TLS wants it. Reads the files named, and raises :class:`TlsFileError` for one that cannot be."""
        context = client_context(self.rules)
        context.check_hostname = self.check_hostname
        context.verify_mode = _VERIFY[self.verify]
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Host and port, or the path of a Unix socket; and the commands that open a session there.

    ``tls_parts`` says what ``tls`` was made of, for those to whom a context cannot be handed.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    tls: KeptContext | None = None
    tls_parts: TlsParts | None = None
    greeting: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    def opening(self) -> bytes:
        """The greeting as bytes."""
        return b"".join(pack(command) for command in self.greeting)


def pack(command: Sequence[Arg]) -> bytes:
    """A command as Redis reads it."""
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


def endpoint_of(address: StoreAddress) -> Endpoint:
    """Take an address apart. Raises :class:`ConfigurationError` for one that redis-py would not take either."""
    try:
        parts: dict[str, Any] = dict(parse_url(address.url))  # type: ignore[no-untyped-call]
    except ValueError:
        raise ConfigurationError(NO_URL, field="redis.url") from None
    secure = "SSL" in parts.pop("connection_class", type).__name__
    greeting: list[tuple[str, ...]] = []
    if parts.get("password"):
        user = (str(parts["username"]),) if parts.get("username") else ()
        greeting.append(("AUTH", *user, str(parts["password"])))
    if parts.get("db"):
        greeting.append(("SELECT", str(parts["db"])))
    tls_parts = _tls(parts) if secure else None
    return Endpoint(
        host=parts.get("host", "localhost"),
        port=int(parts.get("port", 6379)),
        path=parts.get("path"),
        tls=None if tls_parts is None else _kept(tls_parts),
        tls_parts=tls_parts,
        greeting=tuple(greeting),
    )


def _kept(parts: TlsParts) -> KeptContext:
    """Read at the start, so that a missing file is told there, and again when a file changes."""
    kept = KeptContext(parts.rules.files, parts.context)
    try:
        kept.now()
    except TlsFileError as error:
        raise ConfigurationError(f"TLS to Redis: {error}", field="redis.tls_cert_file") from error
    return kept


def _tls(parts: dict[str, Any]) -> TlsParts:
    """The TLS settings in the URL's query, in redis-py's words."""
    verify = str(parts.get("ssl_cert_reqs", "required"))
    verify = verify if verify in _VERIFY else "required"
    checked = str(parts.get("ssl_check_hostname", "true")).lower() not in {"false", "0", "no"}
    certfile = parts.get("ssl_certfile") or None
    return TlsParts(
        cafile=parts.get("ssl_ca_certs"),
        verify=verify,
        check_hostname=checked and verify == "required",
        certfile=certfile,
        keyfile=parts.get("ssl_keyfile") if certfile else None,
        min_version="1.3" if parts.get("ssl_min_version") == ssl.TLSVersion.TLSv1_3 else "1.2",
    )
