"""The ways in which a backend may read a URI, so that no rule on resources is passed by another spelling.

One resource has many spellings: ``%73ecret``, ``HTTP://Host:80``, ``file:/etc`` and ``file://localhost/etc``, a
fragment, a query that the backend does not look at. Which of them a backend takes for the same only it knows. So a URI
is turned into all its likely readings: a denial holds if *one* of them matches, a permission only if *all* of them do.
What could be read as a way out of where it seems to be (dot segments, backslashes, control characters) has no readings
and is refused wherever rules speak of resources.

Source: RFC 3986, section 6.2 "Comparison Ladder"; RFC 8089, "The file URI Scheme".
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_LENGTH: Final = 8192
MOST_LAYERS: Final = 3
"""Percent-encodings of percent-encodings that are taken off; of more there is no reading."""

_SPLIT: Final = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?(.*)", re.DOTALL)
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_LONE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DELIMITERS: Final = re.compile(r"([?#])")
_DOT_SEGMENT: Final = re.compile(r"(?:^|[/:?#;])\.{1,2}(?:[/?#;]|$)")
_SLASHES: Final = re.compile(r"/{2,}")
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_LOCAL: Final = frozenset({"", "localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Readings:
    """``exact`` is the URI as it came. ``whole`` are its readings, ``bare`` the same without query and fragment."""

    exact: str
    whole: frozenset[str]
    bare: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Every text that the URI may be taken for, also without a slash at its end."""
        texts = self.whole | self.bare | {self.exact}
        return texts | {text.rstrip("/") for text in texts}


def readings_of(uri: str) -> Readings | None:
    """All readings of a URI, or of a template of URIs; None if what it stands for cannot be told for certain."""
    if len(uri) > MAX_LENGTH or _LONE_PERCENT.search(uri):
        return None
    decoded = _decoded(uri)
    if decoded is None:
        return None
    texts = [uri, *decoded]
    if any("\\" in text or not text.isprintable() or _DOT_SEGMENT.search(_folded(text)) for text in texts):
        return None
    whole = frozenset(map(_plain, texts))
    # An encoded delimiter may be taken for a character of the path, or for a delimiter.
    bare = {_cut(text) for text in whole} | {plain(_cut(uri))}
    return Readings(uri, whole, frozenset(bare))


def plain(uri: str) -> str:
    """The reading of a URI without anything that does not tell it from others, for patterns."""
    decoded = _decoded(uri)
    return _plain(decoded[-1] if decoded else uri)


def _cut(text: str) -> str:
    return _DELIMITERS.split(text, maxsplit=1)[0]


def _decoded(uri: str) -> list[str] | None:
    """The text with one layer of percent-encoding less at a time; None if that does not end, or gives no text."""
    found: list[str] = []
    text = uri
    while _ESCAPE.search(text):
        if len(found) == MOST_LAYERS:
            return None
        try:
            text = unquote_to_bytes(text).decode("utf-8")
        except UnicodeError:
            return None
        found.append(text)
    return found


def _folded(text: str) -> str:
    """With characters that only look different made one (full-width letters and stops)."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text).replace("\u3002", ".")


def _plain(uri: str) -> str:
    text = _folded(uri)
    found = _SPLIT.fullmatch(text)
    if found is None or found[1] is None:
        return text
    scheme, authority, rest = found[1].lower(), found[2], _path(found[3])
    if scheme == "file":
        # RFC 8089: the authority may be left out, with its slashes, or name this machine.
        host = "" if (authority or "").lower() in _LOCAL else _host(authority, scheme)
        return f"file://{host}/{rest.lstrip('/')}"
    if authority is None:
        return f"{scheme}:{rest}"
    if scheme in _PORTS and not rest.startswith("/"):
        rest = f"/{rest}"
    return f"{scheme}://{_host(authority, scheme)}{rest}"


def _path(rest: str) -> str:
    path, *others = _DELIMITERS.split(rest, maxsplit=1)
    return _SLASHES.sub("/", path) + "".join(others)


def _host(authority: str, scheme: str) -> str:
    """Host and port, without who logs in, and without the port that the scheme has anyway."""
    host = authority.rpartition("@")[2].lower()
    name, colon, port = host.rpartition(":")
    if colon and (port == "" or (port.isascii() and port.isdigit())) and not name.endswith(":"):
        number = int(port[:6] or 0)
        host = name if number in (0, _PORTS.get(scheme)) else f"{name.rstrip('.')}:{number}"
    return host.rstrip(".")
