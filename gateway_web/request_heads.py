"""gunicorn's parser, which remembers the head of the last request on a connection.

A client sends the same head again and again, but for the length of its body. What gunicorn made of it, with all its
checks, is a function of those bytes and of the peer, which is the same for a connection: where they come again, byte
for byte, it need not be made anew. A head that differs in anything else is read by gunicorn, as is one that comes in
pieces, and one of which more than its fields counts (``Expect``, a body that is not of a length, the PROXY protocol).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from gateway_web.http import Environ

LENGTH = "CONTENT-LENGTH"
MOST_DIGITS = 15
"""Of a length that is taken from a head which is remembered."""
END = b"\r\n\r\n"
_OF_ONE_REQUEST = frozenset({"unreader", "headers", "trailers", "body", "req_number", "head"})
"""What a request has beside what was read in its head."""


@dataclass(slots=True)
class Head:
    """A head: the bytes around its length, and what gunicorn read in it."""

    before: bytes
    behind: bytes
    read: dict[str, Any]
    """gunicorn's attributes of the request."""
    headers: tuple[tuple[str, str], ...]
    place: int
    """Where among them the length is."""
    closes: bool
    environ: Environ | None = None
    """Where the short way keeps what it has made of it."""

    def length_in(self, data: bytes) -> bytes | None:
        """The length, if data begins with this very head but for that."""
        begin = len(self.before)
        if not data.startswith(self.before):
            return None
        end = data.find(self.behind, begin, begin + MOST_DIGITS + len(self.behind))
        digits = data[begin:end]
        return digits if end > begin and digits.isdigit() else None


class RememberingRequest(Request):  # type: ignore[misc]
    """A request; what is remembered belongs to the connection's reader."""

    head: Head | None
    """The head as it is remembered, also for the requests to come."""

    def __init__(self, cfg: Any, unreader: Any, peer_addr: Any, req_number: int = 1) -> None:
        """As gunicorn does, or as it did the last time."""
        data = unreader.read()
        if not data:
            raise StopIteration
        head: Head | None = getattr(unreader, "last_head", None)
        length = None if head is None else head.length_in(data)
        if head is None or length is None:
            unreader.unread(data)
            super().__init__(cfg, unreader, peer_addr, req_number)
            self.head = unreader.last_head = _remembered(self, data)
            return
        self.__dict__.update(head.read)
        self.head, self.unreader, self.req_number = head, unreader, req_number
        self.trailers: list[tuple[str, str]] = []
        self.headers = list(head.headers)
        self.headers[head.place] = (LENGTH, length.decode())
        unreader.unread(data[len(head.before) + len(length) + len(head.behind) :])
        self.body = Body(LengthReader(unreader, int(length)))

    def should_close(self) -> bool:
        """As gunicorn has it."""
        if self.head is None or self.must_close:
            return bool(super().should_close())
        return self.head.closes


def _remembered(request: Request, data: bytes) -> Head | None:
    """The head of a request whose bytes begin with ``data``; None for one that has to be read each time."""
    lengths = [place for place, (name, _) in enumerate(request.headers) if name == LENGTH]
    coded = any(name == "TRANSFER-ENCODING" for name, _ in request.headers)
    end = data.find(END)
    if (
        end < 0
        or data.startswith(b"\r\n")
        or coded
        or len(lengths) != 1
        or not request.headers[lengths[0]][1].isdecimal()
        or request._expected_100_continue  # noqa: SLF001 - gunicorn has no other name for it
        or request.cfg.proxy_protocol != "off"
    ):
        return None
    around = _around_length(data[: end + len(END)])
    if around is None:
        return None
    read = {name: value for name, value in vars(request).items() if name not in _OF_ONE_REQUEST}
    return Head(*around, read, tuple(request.headers), lengths[0], bool(Request.should_close(request)))


def _around_length(raw: bytes) -> tuple[bytes, bytes] | None:
    """A head without the digits of its length."""
    begin = 0
    for line in raw.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.upper() == LENGTH.encode():
            digits = value.strip(b" \t")
            begin += len(line) - len(value.lstrip(b" \t"))
            return raw[:begin], raw[begin + len(digits) :]
        begin += len(line) + 2
    return None


def remember_heads() -> None:
    """Have the connections of this process read so."""
    RequestParser.mesg_class = RememberingRequest
