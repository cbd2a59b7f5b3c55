"""One HTTP request and its answer, as WSGI has them: what the doors are written in, whoever opens them.

Flask's own request and response objects cost about as much as all the rest of a short call (docs/benchmarks.md), so
the MCP doors do without; Flask routes to them all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from werkzeug.wsgi import ClosingIterator, get_input_stream

from gateway_web.guards import check_transfer, read_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

Environ = dict[str, Any]

RELOAD = "CANALGATE_RELOAD"
"""Under this name the application's configuration holds what reads its settings anew."""
WEB_SETTINGS = "CANALGATE_WEB"
"""The entry of the application's ``config`` that holds the settings for whoever serves it."""
IDENTITY = "CANALGATE_IDENTITY"
"""The entry that holds the application's identity."""
_PREFIX = "HTTP_"
_BARE = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    """WSGI's name of a header that is given in lower case."""
    return _BARE.get(name) or _PREFIX + name.upper().replace("-", "_")


def status_line(status: int) -> str:
    """Code and phrase; a code that HTTP does not list (499, a client that hung up) has no phrase of its own."""
    return _STATUS_LINES.get(status) or f"{status} Unknown"


class Headers(Mapping[str, str]):
    """The headers of a request by lower-case name. WSGI joins repeated ones by a comma."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        value = self._environ.get(_key(name))
        if value is None:
            raise KeyError(name)
        return str(value)

    def __iter__(self) -> Iterator[str]:
        yield from (name for name, key in _BARE.items() if self._environ.get(key))
        for key in self._environ:
            if key.startswith(_PREFIX):
                yield key.removeprefix(_PREFIX).replace("_", "-").lower()

    def __len__(self) -> int:
        return sum(1 for _ in self)


class HttpRequest:
    """A request, read from its WSGI environment as far as it is asked for."""

    __slots__ = ("environ", "headers")

    def __init__(self, environ: Environ) -> None:
        self.environ = environ
        self.headers = Headers(environ)

    def header(self, name: str) -> str | None:
        """A header by its lower-case name; None if it was not sent."""
        value: str | None = self.environ.get(_key(name))
        return value

    def query(self, name: str) -> str | None:
        """A parameter of the query; None if it is not there, or more than once."""
        found = parse_qs(str(self.environ.get("QUERY_STRING", ""))).get(name, [])
        return found[0] if len(found) == 1 else None

    def body(self, limit: int) -> bytes:
        """The body. Raises what the guards of bodies raise."""
        environ = self.environ
        check_transfer(environ.get("HTTP_TRANSFER_ENCODING"))
        # A stream that ends with its body needs none of werkzeug's care.
        ends = environ.get("wsgi.input_terminated", False)
        stream = environ["wsgi.input"] if ends else get_input_stream(environ)
        return read_body(stream, environ.get("CONTENT_LENGTH"), limit)

    @property
    def peer(self) -> str:
        """The address of whoever holds the other end of the connection; empty on a Unix socket."""
        return str(self.environ.get("REMOTE_ADDR", ""))

    @property
    def tls_subject(self) -> str | None:
        """The subject of the certificate that the peer has shown to our listener; None if it has shown none.

        It is asked of the connection itself: nothing in the environment can be mistaken for it.
        """
        subject: str | None = getattr(self.environ.get("gunicorn.socket"), "subject", None)
        return subject

    @property
    def tls_subject_until(self) -> float | None:
        """The last second (since 1970) at which that certificate is good; None if there is none."""
        until: float | None = getattr(self.environ.get("gunicorn.socket"), "subject_until", None)
        return until

    @property
    def method(self) -> str:
        """The method, in capitals."""
        return str(self.environ.get("REQUEST_METHOD", ""))

    @property
    def path(self) -> str:
        """The path, decoded."""
        return str(self.environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8", "replace")

    @property
    def query_string(self) -> str:
        """The query as it came."""
        return str(self.environ.get("QUERY_STRING", ""))


@dataclass(slots=True, kw_only=True)
class HttpAnswer:
    """An answer: a body at once, or pieces as they come; after the last, or when nobody reads on, ``on_close``."""

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    on_close: Callable[[], None] | None = None

    def send(self, start_response: StartResponse) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        headers = list(self.headers.items())
        if isinstance(self.body, bytes):
            headers.append(("Content-Length", str(len(self.body))))
        start_response(status_line(self.status), headers)
        pieces = [self.body] if isinstance(self.body, bytes) else self.body
        return pieces if self.on_close is None else ClosingIterator(pieces, self.on_close)
