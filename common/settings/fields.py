"""The kinds of value a setting may have. Messages say what is wanted, and never repeat the value given."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, core_schema

from common.domain.errors import ConfigurationError
from common.domain.ids import MAX_ID_LENGTH
from common.domain.rules import MAX_COUNT
from common.domain.tool import MASK, MAX_POOL_SIZE, MAX_TIMEOUT
from common.plugins import installed
from common.settings.document import parse

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:]*)(:[0-9]*)?")
_HOST_HEADER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+")  # RFC 6454, section 6.2: no path, not even "/"
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749, section 3.3
_RESOLVER_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_PLUGIN_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
RESOLVERS = ("none", "header", "api_key", "jwt", "mtls")
IDENTITY_PLUGINS = "canalgate.identity"
"""The group of entry points by which installed packages offer resolvers."""
UNIX = "unix"
"""How peers on a Unix socket are written among trusted proxies."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts; shown in the reference."""

    name: str


class SecretUrl(str):
    """A URL whose ``repr`` and ``masked`` form hide the password. As a string it is the real thing."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(self.masked)

    @property
    def masked(self) -> str:
        """The URL with its password and the values of its query hidden."""
        return masked_url(self)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


def masked_url(url: str) -> str:
    """``url`` without password, query values and fragment; all of it hidden if it is not clear what is what."""
    front, hash_mark, _ = url.partition("#")
    front, question_mark, query = front.partition("?")
    scheme, separator, rest = front.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    if not separator or not _AUTHORITY.fullmatch(host):
        return MASK
    name, colon, _ = user.partition(":")
    pairs = [pair.partition("=") for pair in query.split("&")] if query else []
    return "".join(
        (
            f"{scheme}://{name}{colon}{MASK if colon else ''}{at}{host}{slash}{path}{question_mark}",
            "&".join(f"{key}={MASK}" if equals else MASK for key, equals, _ in pairs),
            f"{hash_mark}{MASK if hash_mark else ''}",
        )
    )


def is_loopback(host: str) -> bool:
    """True if only this machine can reach a listener on ``host``."""
    if host.lower() in {"localhost", "localhost."}:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def checked_http_url(value: str) -> str:
    """An absolute http or https URL with a host; ValueError says what is missing."""
    try:
        parts = urlsplit(value)
        valid = (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        valid = False
    if not valid or not value.isprintable() or " " in value:
        raise ValueError("must be a URL such as http://127.0.0.1:9000/mcp (http or https, with a host)")
    return value


def checked_secure_url(value: str) -> str:
    """A URL whose answers nobody on the way can change: https, or http on this machine; ValueError otherwise."""
    try:
        checked_http_url(value)
    except ValueError:
        raise ValueError("must be a URL such as https://issuer.example.com/path") from None
    parts = urlsplit(value)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https:// (http:// on this machine only)")
    return value


def checked_header_name(value: str) -> str:
    """A header field name; ValueError otherwise."""
    if not _TOKEN.fullmatch(value):
        raise ValueError("must be a header name: letters, digits and hyphens")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")  # noqa: TRY004 (what pydantic collects)
    return value


def _list(value: object) -> object:
    """Text is read as a list: ``a, b`` or ``[...]`` (the environment and references have only text)."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    if not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    try:
        return parse(value, name="value").tree
    except ConfigurationError as error:
        raise ValueError("must be a list: a, b or [a, b]") from error


def _mapping(value: object) -> object:
    """Text is read as a mapping: ``{a: b}`` (the environment and references have only text)."""
    if not isinstance(value, str):
        return value
    try:
        return parse(value, name="value").tree
    except ConfigurationError as error:
        raise ValueError("must be a mapping: {a: b}") from error


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _host(value: str) -> str:
    if not value or not value.isprintable() or any(character in value for character in "/ @"):
        raise ValueError("must be a host name or an IP address, without scheme, port or path")
    return value


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_HOST_HEADER.fullmatch(value) for value in values):
        raise ValueError(
            "must hold values of a Host header: gateway.example.com, gateway.example.com:8443 or [::1]"
        )
    return values


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _ORIGIN.fullmatch(value) or not value.isprintable():
            raise ValueError(
                "must hold origins such as https://app.example.com, without a path or a final slash"
            )
    return values


def _key_prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError("must be 1 to 64 letters, digits, dots, underscores or hyphens")
    return value


def _resolvers(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError(f"must name at least one of {quoted(RESOLVERS)}, or a class as package.module:Class")
    for value in values:
        if value in RESOLVERS or _RESOLVER_CLASS.fullmatch(value):
            continue
        brought = installed(IDENTITY_PLUGINS)
        if value not in brought:
            raise ValueError(
                f"must hold some of {quoted(RESOLVERS)}, names that installed packages bring ({IDENTITY_PLUGINS}: "
                f"{', '.join(brought) or 'none'}), or a class as package.module:Class"
            )
    if len(set(values)) != len(values):
        raise ValueError("names a resolver twice; remove one of the two")
    if "none" in values[:-1]:
        raise ValueError("none takes everybody, so it must be the last one")
    return values


def _scopes(values: tuple[str, ...]) -> tuple[str, ...]:
    if not all(len(value) <= MAX_ID_LENGTH and _SCOPE.fullmatch(value) for value in values):
        raise ValueError("must hold scopes: visible ASCII without spaces, quotes and backslashes")
    return tuple(dict.fromkeys(values))


def _proxies(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value == UNIX:
            continue
        try:
            ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(
                "must hold addresses or networks such as 10.0.0.0/8 (no bits beyond the mask), or unix"
            ) from None
    return values


def _plugin(value: str) -> str:
    if not _PLUGIN_NAME.fullmatch(value) and not _RESOLVER_CLASS.fullmatch(value):
        raise ValueError("must be a name, or a class as package.module:Class")
    return value


def _redis_url(value: SecretUrl) -> SecretUrl | None:
    if not value:
        return None
    try:
        parts = urlsplit(value)
        valid = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or not value.startswith(REDIS_SCHEMES):
        raise ValueError("must be redis://host:port/db, rediss://host:port/db or unix:///path/of/socket")
    return value


def _file_path(value: str) -> str:
    if not value.startswith("/") or not value.isprintable() or value.endswith("/"):
        raise ValueError("must be the absolute path of a file, such as /run/canalgate/heartbeat")
    return value


def _api_key(value: object) -> object:
    if isinstance(value, str) and not (
        value.isascii() and value.isprintable() and value and " " not in value
    ):
        raise ValueError("must be visible ASCII characters without spaces, since it travels in a header")
    return value


def quoted(names: Iterable[str]) -> str:
    """``'a', 'b'``"""
    return ", ".join(f"'{name}'" for name in names)


_NUMBER = BeforeValidator(_number)
_SECONDS = Unit("seconds")

Seconds = Annotated[float, _SECONDS, Field(gt=0, le=MAX_TIMEOUT, allow_inf_nan=False), _NUMBER]
SecondsOrZero = Annotated[float, _SECONDS, Field(ge=0, le=MAX_TIMEOUT, allow_inf_nan=False), _NUMBER]
Bytes = Annotated[int, Unit("bytes"), Field(ge=1024, le=1 << 30), _NUMBER]
Processes = Annotated[int, Unit("processes"), Field(ge=1, le=1024), _NUMBER]
Calls = Annotated[int, Unit("calls"), Field(ge=1, le=MAX_COUNT), _NUMBER]
Requests = Annotated[int, Unit("requests"), Field(ge=1, le=MAX_COUNT), _NUMBER]
PageSize = Annotated[int, Unit("items"), Field(ge=0, le=MAX_COUNT), _NUMBER]
Sessions = Annotated[int, Unit("sessions"), Field(ge=1, le=MAX_COUNT), _NUMBER]
PoolSize = Annotated[int, Unit("sessions"), Field(ge=1, le=MAX_POOL_SIZE), _NUMBER]
CacheSize = Annotated[int, Unit("answers"), Field(ge=1, le=MAX_COUNT), _NUMBER]
Failures = Annotated[int, Unit("failures"), Field(ge=1, le=MAX_COUNT), _NUMBER]
LimitFiles = Annotated[int, Unit("files"), Field(ge=1, lt=1 << 62), _NUMBER]
LimitProcesses = Annotated[int, Unit("processes"), Field(ge=1, lt=1 << 62), _NUMBER]
LimitBytes = Annotated[int, Unit("bytes"), Field(ge=1, lt=1 << 62), _NUMBER]
Events = Annotated[int, Unit("events"), Field(ge=100, le=100_000_000), _NUMBER]
Files = Annotated[int, Unit("files"), Field(ge=0, le=MAX_COUNT), _NUMBER]
AnyBytes = Annotated[int, Unit("bytes"), Field(ge=1024, lt=1 << 62), _NUMBER]
Connections = Annotated[int, Unit("connections"), Field(ge=1, le=1_000_000), _NUMBER]
Port = Annotated[int, Field(ge=0, le=65535), _NUMBER]
Host = Annotated[str, AfterValidator(_host)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_hosts)]
Origins = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_origins)]
HeaderName = Annotated[str, AfterValidator(checked_header_name)]
KeyPrefix = Annotated[str, AfterValidator(_key_prefix)]
Id = Annotated[str, Field(min_length=1, max_length=MAX_ID_LENGTH)]
Plugin = Annotated[str, AfterValidator(_plugin)]
Resolvers = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_resolvers)]
Scopes = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_scopes)]
Proxies = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_proxies)]
RedisUrl = Annotated[SecretUrl, AfterValidator(_redis_url), WithJsonSchema({"type": "string"})]
FilePath = Annotated[str, AfterValidator(_file_path)]
AsList = BeforeValidator(_list)
AsMapping = BeforeValidator(_mapping)
LowerCase = BeforeValidator(_lower)
VisibleAscii = BeforeValidator(_api_key)
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _NUMBER]
