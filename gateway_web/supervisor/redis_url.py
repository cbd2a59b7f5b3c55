"""The two spellings of a Redis URL, and what may be shown of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from gateway_web.supervisor.errors import RedisUrlError

_SCHEMES = ("redis", "rediss", "unix", "redis+socket")
_DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisUrl:
    """A parsed Redis URL: TCP (``redis``), TLS (``rediss``), or a Unix socket (``unix``, ``redis+socket``).

    redis-py wants ``unix:///path?db=0`` for a socket, Celery and kombu want ``redis+socket:///path?virtual_host=0``;
    the other forms are the same for both. Either spelling is understood here.
    """

    scheme: str
    host: str = ""
    port: int = _DEFAULT_PORT
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def for_socket(cls, path: Path, *, db: int = 0) -> Self:
        """URL of a Unix socket."""
        return cls(scheme="unix", path=str(path), db=db)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse either spelling.

        Raises:
            RedisUrlError: another scheme, or a part that makes no sense. The message does not repeat the URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise RedisUrlError(f"redis.url: scheme {parts.scheme!r} is not one of {', '.join(_SCHEMES)}")
        query = dict(parse_qsl(parts.query))
        on_socket = parts.scheme in ("unix", "redis+socket")
        db = query.pop("virtual_host", None)
        db = query.pop("db", db)
        password = query.pop("password", None) if on_socket else None
        path = unquote(parts.path)
        return cls(
            scheme="unix" if on_socket else parts.scheme,
            host="" if on_socket else parts.hostname or "127.0.0.1",
            port=_port(parts),
            path=_socket_path(path) if on_socket else "",
            db=_number(db if db is not None or on_socket else path),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else password,
            options=tuple(query.items()),
        )

    @property
    def for_redis_py(self) -> str:
        """The URL for redis-py. It holds the password."""
        if self.scheme == "unix":
            return f"unix://{self._userinfo}{quote(self.path)}{_query(('db', str(self.db)), *self.options)}"
        return self._tcp

    @property
    def for_celery(self) -> str:
        """The URL for Celery's broker and result backend. It holds the password."""
        if self.scheme == "unix":
            query = _query(("virtual_host", str(self.db)), *self.options)
            return f"redis+socket://{self._userinfo}{quote(self.path)}{query}"
        return self._tcp

    @property
    def shown(self) -> str:
        """The URL without user, password and options, for messages."""
        if self.scheme == "unix":
            return f"unix://{self.path}?db={self.db}"
        return f"{self.scheme}://{self._host}:{self.port}/{self.db}"

    def option(self, name: str) -> str | None:
        """A parameter of the query, such as ``ssl_ca_certs``."""
        return dict(self.options).get(name)

    @property
    def _tcp(self) -> str:
        return f"{self.scheme}://{self._userinfo}{self._host}:{self.port}/{self.db}{_query(*self.options)}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def _userinfo(self) -> str:
        if self.password is None:
            return f"{quote(self.username, safe='')}@" if self.username else ""
        return f"{quote(self.username or '', safe='')}:{quote(self.password, safe='')}@"


def _query(*items: tuple[str, str]) -> str:
    return "?" + urlencode(items) if items else ""


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _DEFAULT_PORT
    except ValueError as error:
        raise RedisUrlError("redis.url: the port is not a number from 1 to 65535") from error


def _socket_path(path: str) -> str:
    if not path.startswith("/") or path == "/":
        raise RedisUrlError("redis.url: a socket needs an absolute path, as in unix:///run/redis.sock?db=0")
    return path


def _number(text: str | None) -> int:
    digits = (text or "").strip("/")
    if not digits:
        return 0
    if not digits.isdecimal():
        raise RedisUrlError("redis.url: the database is not a number, as in redis://127.0.0.1:6379/0")
    return int(digits)
