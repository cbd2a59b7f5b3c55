"""Heads that are remembered: what is read with them is what gunicorn reads without, of each request of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from gateway_web.gunicorn_worker import environ_of
from gateway_web.request_heads import RememberingRequest

TRUSTED, STRANGER = ("127.0.0.1", 5), ("10.1.1.1", 5)
LINES = (
    "POST /mcp HTTP/1.1",
    "POST /servers/a%20b/mcp?x=1#y HTTP/1.1",
    "GET /mcp HTTP/1.1",
    "POST /mcp HTTP/1.0",
)
BAD_LINES = ("POST  /mcp HTTP/1.1", "POST /m\x01cp HTTP/1.1", "POST /mcp", "* * *")
FIELDS = (
    *(
        "Host: h",
        "Host: other",
        "Content-Type: application/json",
        "Accept: */*",
        "X-A: 1",
        "X-A: 2",
        "x-a: 1",
    ),
    *("X-Forwarded-Proto: https", "X-Forwarded-Proto: http", "Connection: close", "Expect: 100-continue"),
    *("X_A: 1", "SCRIPT_NAME: /a", "X-Length: 2", "Content-Length-Of: 2", "X-A: Content-Length: 2"),
)
BAD_FIELDS = (
    "Transfer-Encoding: chunked",
    "X A: 1",
    "X-A : 1",
    " folded",
    "X-A: \x01",
    ":1",
    "Expect: me",
    "none",
)
LENGTHS = (
    "Content-Length: 2",
    "content-length:2",
    "Content-Length: \t2 ",
    "CONTENT-LENGTH: 02",
    "Content-Length: 11",
)
BAD_LENGTHS = (
    "Content-Length: -2",
    "Content-Length: 2,2",
    "Content-Length: \xb2",
    "Content-Length: ",
    "Content_Length: 2",
)


def rarely(good: Sequence[str], bad: Sequence[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([*good * 4, *bad])


@st.composite
def requests(draw: st.DrawFn) -> list[bytes]:
    """Requests of one client: each like the one before, but for little."""
    line, length = draw(rarely(LINES, BAD_LINES)), draw(rarely(LENGTHS, BAD_LENGTHS))
    fields = draw(st.lists(rarely(FIELDS, BAD_FIELDS), max_size=5))
    found = []
    for _ in range(draw(st.integers(2, 5))):
        match draw(
            st.sampled_from(["same", "same", "line", "length", "length", "fields", "twice", "without"])
        ):
            case "line":
                line = draw(rarely(LINES, BAD_LINES))
            case "length":
                length = draw(rarely(LENGTHS, BAD_LENGTHS))
            case "fields":
                fields = draw(st.permutations(draw(st.lists(rarely(FIELDS, BAD_FIELDS), max_size=5))))
            case "twice":
                fields = [*fields, length]
            case "without":
                fields = fields[1:]
        place = draw(st.integers(0, len(fields)))
        head = [line, *fields[:place], length, *fields[place:]]
        found.append("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + b"b" * 11)
    return found


def told(kind: type[Request], reader: IterUnreader, peer: tuple[str, int], number: int) -> Any:
    """All that a request says, or what is wrong with it."""
    config = Config()
    config.set("forwarded_allow_ips", "127.0.0.1")
    try:
        request = kind(config, reader, peer, number)
        environ = environ_of(request, None, peer)
        if environ is not None:
            assert environ.pop("wsgi.input") is request.body
        parts = [request.method, request.uri, request.path, request.query, request.fragment, request.version]
        body = request.body.read()
        return (
            parts,
            request.headers,
            request.scheme,
            request.should_close(),
            vars(request)["_expected_100_continue"],
            environ,
            body,
        )
    except Exception as error:
        return type(error), str(error)


@given(requests(), st.sampled_from([TRUSTED, STRANGER]))
def test_each_request_is_read_as_if_it_were_the_first(sent: list[bytes], peer: tuple[str, int]) -> None:
    """On one connection with what is remembered, and each on a connection of its own without."""
    kept = IterUnreader([])
    for number, raw in enumerate(sent, start=1):
        kept.buf.truncate(0)
        kept.iter = iter([raw])
        seen = told(RememberingRequest, kept, peer, number)
        assert seen == told(Request, IterUnreader([raw]), peer, number)
        if isinstance(seen[0], type):
            return  # such a connection is closed


@pytest.mark.parametrize(
    "second",
    [
        b"Host: h\r\nContent-Length: 2\r\nX-A: 2",
        b"Host: g\r\nContent-Length: 2\r\nX-A: 1",
        b"Host: h\r\nContent-Length: 22\r\nX-A 1",
        b"Host: h\r\nContent-Length: 2222\r\nX-A",
        b"Host: h\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 1",
        b"Host: h\r\nContent-Length: 2\r\nY: 1\r\nX-A: 1",
        b"Host: h\r\nX-A: 1\r\nContent-Length: 2",
    ],
)
def test_a_byte_that_differs_is_seen(second: bytes) -> None:
    """Before the length, behind it, or in its place."""
    line, end = b"POST /mcp HTTP/1.1\r\n", b"\r\n\r\n" + b"b" * 30
    reader = IterUnreader([line + b"Host: h\r\nContent-Length: 30\r\nX-A: 1" + end])
    RememberingRequest(Config(), reader, STRANGER, 1).body.read()
    reader.iter = iter([line + second + end])
    seen = told(RememberingRequest, reader, STRANGER, 2)
    assert seen == told(Request, IterUnreader([line + second + end]), STRANGER, 2)


def test_what_comes_again_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its body is of another length."""
    read: list[bytes] = []
    by_gunicorn = Request.parse_headers

    def counted(self: Request, data: bytes, *, from_trailer: bool = False) -> Any:
        read.append(data)
        return by_gunicorn(self, data, from_trailer=from_trailer)

    monkeypatch.setattr(Request, "parse_headers", counted)
    reader = IterUnreader([])
    for body in (b"{}", b"[1234567890]", b"{}"):
        reader.iter = iter([sent(body)])
        request = RememberingRequest(Config(), reader, STRANGER, 1)
        assert request.headers == [("HOST", "h"), ("CONTENT-LENGTH", str(len(body))), ("X-A", "1")]
        assert request.body.read() == body
    assert len(read) == 1


def sent(body: bytes) -> bytes:
    """A request with a body."""
    return b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nX-A: 1\r\n\r\n%b" % (len(body), body)


@given(st.lists(st.binary(max_size=30), min_size=2, max_size=4), st.data())
def test_however_the_bytes_come(bodies: list[bytes], data: st.DataObject) -> None:
    """Several requests in one piece, or one in several: each ends where its length says."""
    whole = b"".join(map(sent, bodies))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=6)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    reader = IterUnreader(pieces)
    for number, body in enumerate(bodies, start=1):
        request = RememberingRequest(Config(), reader, STRANGER, number)
        assert request.headers == [("HOST", "h"), ("CONTENT-LENGTH", str(len(body))), ("X-A", "1")]
        assert request.req_number == number
        assert request.body.read() == body
    with pytest.raises(StopIteration):
        RememberingRequest(Config(), reader, STRANGER, len(bodies) + 1)


def test_what_an_application_does_to_a_request_is_not_remembered() -> None:
    """Neither in its environment nor in itself."""
    reader = IterUnreader([sent(b"1"), sent(b"2")])
    first = RememberingRequest(Config(), reader, STRANGER, 1)
    environ = environ_of(first, None, STRANGER)
    assert environ is not None
    environ["HTTP_X_A"] = "other"
    first.headers.clear()
    first.force_close()
    assert first.should_close()
    first.body.read()
    second = RememberingRequest(Config(), reader, STRANGER, 2)
    again = environ_of(second, None, STRANGER)
    assert again is not None
    assert (again["HTTP_X_A"], again["CONTENT_LENGTH"]) == ("1", "1")
    assert len(second.headers) == 3
    assert not second.should_close()


def test_behind_a_proxy_that_names_the_client_nothing_is_remembered() -> None:
    """What it says is not in the head."""
    config = Config()
    config.set("proxy_protocol", "v1")
    config.set("proxy_allow_ips", "*")
    reader = IterUnreader([b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + sent(b"1"), sent(b"2")])
    for number in (1, 2):
        request = RememberingRequest(config, reader, STRANGER, number)
        assert request.head is None
        assert bool(request.proxy_protocol_info) == (number == 1)
        request.body.read()
