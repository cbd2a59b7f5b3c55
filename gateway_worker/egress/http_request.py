"""What a request says before its body: where it goes, and header fields that cannot smuggle in another.

RFC 3986 (URLs), RFC 9110 section 5 (fields), RFC 9112 section 3 (request line).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import SplitResult, quote, unquote, urlsplit

from gateway_worker.egress.link import LinkLost

SCHEMES = {"http": 80, "https": 443}
FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Fields that say where a body ends: a value from elsewhere would let one request hide in another."""

_HOST = re.compile(r"[A-Za-z0-9._-]+")
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_A_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_PATH_SAFE, _QUERY_SAFE = "/%:@!$&'()*+,;=~", "/?%:@!$&'()*+,;=~[]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a URL leads. ``host`` is a name or an address without brackets; ``target`` is path and query.

    ``authority`` is the value of the Host field, ``authorization`` what the URL's user information makes.
    """

    host: str
    port: int
    secure: bool
    target: str
    authority: str
    authorization: str | None

    @staticmethod
    def of(url: str) -> Origin:
        """Take a URL apart. Raises :class:`LinkLost` for one that leads nowhere."""
        try:
            parts = urlsplit(url)
            host = _host(parts.hostname or "")
            default = SCHEMES[parts.scheme]
            port = parts.port or default
        except (ValueError, KeyError) as error:
            raise LinkLost("the tool's URL is not a valid URL", unsent=True) from error
        # An interface ("fe80::1%eth0") means something on this machine only.
        shown = f"[{host.partition('%')[0]}]" if ":" in host else host
        target = quote(parts.path or "/", safe=_PATH_SAFE)
        return Origin(
            host=host,
            port=port,
            secure=parts.scheme == "https",
            target=f"{target}?{quote(parts.query, safe=_QUERY_SAFE)}" if parts.query else target,
            authority=shown if port == default else f"{shown}:{port}",
            authorization=_basic(parts),
        )


def _host(host: str) -> str:
    """The host as it is looked up. Raises ValueError if it can be none."""
    if ":" in host:
        host = host.replace("%25", "%", 1)
        IPv6Address(host)
        return host
    # ASCII names stay as they are, underscores and all; others get their ASCII form.
    host = host if host.isascii() else host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError("no host")
    return host


def _basic(parts: SplitResult) -> str | None:
    if parts.username is None:
        return None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + b64encode(pair.encode()).decode("ascii")


class Fields:
    """Checked header fields, their names in lower case, and the text they make. Immutable."""

    __slots__ = ("_fields", "text")

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Raises :class:`LinkLost` for a name or value that HTTP cannot carry; it never shows the value.

        It makes no claim that nothing was sent, though that is so: sending again would not help, and an id that came
        from the backend itself is found wanting in the middle of a call.
        """
        self._fields = _checked(headers)
        self.text = _text(self._fields)

    def extended(self, headers: Mapping[str, str]) -> Fields:
        """With these as well, which win over those of the same name."""
        if not headers:
            return self
        more = _checked(headers)
        fields = Fields.__new__(Fields)
        fields._fields = {**self._fields, **more}
        # Every call of the modern era comes here with headers of its own: only those are written anew.
        disjoint = self._fields.keys().isdisjoint(more)
        fields.text = self.text + _text(more) if disjoint else _text(fields._fields)
        return fields


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    checked = {}
    for name, value in headers.items():
        lower = name.lower()
        if not _FIELD_NAME.fullmatch(name) or lower in FRAMING:
            raise LinkLost(f"the header {name[:40]!r} cannot be sent: choose another name")
        if _NOT_IN_A_VALUE.search(value):
            raise LinkLost(f"the header {name} holds a character that HTTP cannot carry")
        checked[lower] = value
    return checked


def _text(fields: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def request_bytes(verb: str, target: str, fields: Fields, body: bytes | None) -> bytes:
    """A whole request; None is no body, which is not the same as an empty one."""
    length = "" if body is None else f"content-length: {len(body)}\r\n"
    head = f"{verb} {target} HTTP/1.1\r\n{fields.text}{length}\r\n".encode("latin-1")
    return head if body is None else head + body
