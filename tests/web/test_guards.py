"""What is refused before anything is read: tables of Host, Origin, content type, Accept and size."""

from __future__ import annotations

import io
from typing import Any

import pytest
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkSize

from common.domain.errors import Forbidden, GatewayError, InvalidRequest
from common.settings import WebSettings
from gateway_web.guards import HostGuard, Refused, check_accept, check_content_type, check_transfer, read_body

OK = 200


def status_of(error: GatewayError) -> int:
    return error.status if isinstance(error, Refused) else error.meaning.http


def checked(web: WebSettings, **environ: str) -> int:
    try:
        HostGuard(web).check(environ)
    except (Refused, Forbidden) as error:
        return status_of(error)
    return OK


def web(host: str = "127.0.0.1", **changes: Any) -> WebSettings:
    return WebSettings(host=host, **changes)


LOCAL = web()
NAMED = web("10.1.2.3", allowed_hosts=["gate.example.com", "gate.example.com:8443", "[fd00::7]"])
WILDCARD = "0.0.0.0"  # noqa: S104 - compared with, not bound
OPEN = web(WILDCARD)
NARROWED = web(WILDCARD, allowed_hosts=["gate.example.com"])
V6 = web("fd00::1")


@pytest.mark.parametrize(
    ("settings", "host", "expected"),
    [
        # bound to loopback
        (LOCAL, "127.0.0.1", OK),
        (LOCAL, "127.0.0.1:8080", OK),
        (LOCAL, "localhost", OK),
        (LOCAL, "LocalHost:1", OK),
        (LOCAL, "[::1]", OK),
        (LOCAL, "[::1]:65535", OK),
        (LOCAL, "evil.example.com", 421),
        (LOCAL, "127.0.0.1.evil.example.com", 421),
        (LOCAL, "localhost.evil.example.com", 421),
        (LOCAL, "evil-localhost", 421),
        (LOCAL, "127.0.0.2", 421),
        (LOCAL, "[::2]", 421),
        (LOCAL, WILDCARD, 421),
        # malformed, or a trick
        (LOCAL, "", 400),
        (LOCAL, " ", 400),
        (LOCAL, "a/?x", 400),
        (LOCAL, "localhost/?x", 400),
        (LOCAL, "localhost,evil.example.com", 400),
        (LOCAL, "localhost, localhost", 400),
        (LOCAL, "user@localhost", 400),
        (LOCAL, "localhost@evil.example.com", 400),
        (LOCAL, "localhost:", 400),
        (LOCAL, "localhost:80:90", 400),
        (LOCAL, "localhost:port", 400),
        (LOCAL, "localhost:123456", 400),
        (LOCAL, "localhost\n", 400),
        (LOCAL, "localhost:80\n", 400),
        (LOCAL, "localhost\x00", 400),
        (LOCAL, "localhost#", 400),
        (LOCAL, "lócalhost", 400),
        (LOCAL, "::1", 400),
        (LOCAL, "[::1", 400),
        (LOCAL, "[::1]x", 400),
        (LOCAL, "[evil]", 400),
        (LOCAL, "http://localhost", 400),
        # bound to an address, with names
        (NAMED, "10.1.2.3", OK),
        (NAMED, "10.1.2.3:8080", OK),
        (NAMED, "gate.example.com", OK),
        (NAMED, "GATE.example.com:1", OK),
        (NAMED, "[fd00::7]:80", OK),
        (NAMED, "localhost", OK),
        (NAMED, "10.1.2.4", 421),
        (NAMED, "example.com", 421),
        (NAMED, "x.gate.example.com", 421),
        (web("10.1.2.3", allowed_hosts=["gate:8443"]), "gate:8443", OK),
        (web("10.1.2.3", allowed_hosts=["gate:8443"]), "gate", 421),
        (web("10.1.2.3", allowed_hosts=["gate:8443"]), "gate:8444", 421),
        # bound to a wildcard: no name is known, unless some are given
        (OPEN, "gate.example.com", OK),
        (OPEN, "[fd00::1]:8080", OK),
        (OPEN, "a/?x", 400),
        (OPEN, "good,evil", 400),
        (OPEN, "", 400),
        (web("::"), "anything", OK),
        (web("[::]"), "anything", OK),
        (NARROWED, "gate.example.com", OK),
        (NARROWED, "localhost", OK),
        (NARROWED, "evil.example.com", 421),
        (NARROWED, WILDCARD, 421),
        # bound to IPv6
        (V6, "[fd00::1]", OK),
        (V6, "[FD00::1]:8080", OK),
        (V6, "[fd00::2]", 421),
        (V6, "localhost", OK),
        (web("[fd00::1]"), "[fd00::1]:1", OK),
        (web("::1"), "[::1]:8080", OK),
    ],
)
def test_which_hosts_are_served(settings: WebSettings, host: str, expected: int) -> None:
    """400 for what is no Host, 421 for another one's (DNS rebinding comes with the attacker's own name)."""
    assert checked(settings, HTTP_HOST=host) == expected


def test_a_request_without_host_is_refused() -> None:
    """HTTP/1.1 wants one, and without it nothing can be told."""
    assert [checked(settings) for settings in (LOCAL, OPEN, NAMED)] == [400] * 3


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        (None, "localhost:8080", OK),
        ("http://localhost:8080", "localhost:8080", OK),
        ("https://localhost:8080", "localhost:8080", OK),
        ("HTTP://LOCALHOST:8080", "localhost:8080", OK),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", OK),
        ("http://[::1]:8080", "[::1]:8080", OK),
        ("https://app.example.com", "localhost:8080", OK),
        ("https://APP.example.com", "localhost:8080", OK),
        ("http://app.example.com", "localhost:8080", 403),
        ("https://app.example.com:444", "localhost:8080", 403),
        ("https://app.example.com.evil.com", "localhost:8080", 403),
        ("http://localhost:9999", "localhost:8080", 403),
        ("http://localhost", "localhost:8080", 403),
        ("http://127.0.0.1:8080", "localhost:8080", 403),
        ("http://evil.example.com", "localhost:8080", 403),
        ("http://localhost:8080.evil.example.com", "localhost:8080", 403),
        ("http://localhost:8080/", "localhost:8080", 403),
        ("http://localhost:8080, http://evil.example.com", "localhost:8080", 403),
        ("http://user@localhost:8080", "localhost:8080", 403),
        ("file://localhost:8080", "localhost:8080", 403),
        ("chrome-extension://localhost:8080", "localhost:8080", 403),
        ("localhost:8080", "localhost:8080", 403),
        ("null", "localhost:8080", 403),
        ("", "localhost:8080", 403),
        ("://", "localhost:8080", 403),
        ("http://evil.example.com", "evil.example.com", 421),
    ],
)
def test_which_pages_may_call(origin: str | None, host: str, expected: int) -> None:
    """Our own, the listed ones, and what is no page at all."""
    settings = web(allowed_origins=["https://app.example.com"])
    environ = {"HTTP_HOST": host} | ({} if origin is None else {"HTTP_ORIGIN": origin})
    assert checked(settings, **environ) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json", OK),
        ("Application/JSON", OK),
        ("application/json; charset=utf-8", OK),
        (" application/json ;x=y", OK),
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("application/jsonl", 415),
        ("application/json-rpc", 415),
        ("application/json, text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
    ],
)
def test_bodies_are_json(value: str | None, expected: int) -> None:
    """A page can send the other types across origins without being asked first."""
    try:
        check_content_type(value)
        found = OK
    except Refused as error:
        found = error.status
    assert found == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("application/json, text/event-stream", OK),
        ("text/event-stream,application/json", OK),
        ("Application/JSON;q=0.9, Text/Event-Stream;q=0.1", OK),
        ("*/*", OK),
        ("text/html, */*;q=0.1", OK),
        ("application/*, text/*", OK),
        ("application/json, text/*", OK),
        (None, 406),
        ("", 406),
        (",", 406),
        ("application/json", 406),
        ("text/event-stream", 406),
        ("text/html", 406),
        ("application/json text/event-stream", 406),
        ("application/jsonx, text/event-stream", 406),
    ],
)
def test_clients_take_both_forms(value: str | None, expected: int) -> None:
    """An answer may come as JSON or as a stream."""
    try:
        check_accept(value)
        found = OK
    except Refused as error:
        found = error.status
    assert found == expected


class Endless(io.RawIOBase):
    """A body without an end, as a chunked one may be; counts what was read of it."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size >= 0, "the whole of it must never be asked for"
        self.given += size
        return b"x" * size


@pytest.mark.parametrize("length", [None, "", "0", "10"])
def test_a_body_within_the_bound_is_read(length: str | None) -> None:
    """The announced length is for refusing early; what counts is what comes."""
    assert read_body(io.BytesIO(b"0123456789"), length, 100) == b"0123456789"


def test_the_bound_itself_is_within_the_bound() -> None:
    """One byte more is not."""
    assert len(read_body(io.BytesIO(b"x" * 100), None, 100)) == 100
    with pytest.raises(Refused) as caught:
        read_body(io.BytesIO(b"x" * 101), None, 100)
    assert caught.value.status == 413
    assert "web.max_body_bytes" in caught.value.message


@pytest.mark.parametrize("length", ["101", "9" * 30])
def test_what_announces_too_much_is_not_read(length: str) -> None:
    """Not a byte of it."""
    body = Endless()
    with pytest.raises(Refused) as caught:
        read_body(body, length, 100)
    assert (caught.value.status, body.given) == (413, 0)


def test_a_body_without_an_end_is_cut_off() -> None:
    """Also where no length was announced."""
    body = Endless()
    with pytest.raises(Refused) as caught:
        read_body(body, None, 100)
    assert (caught.value.status, body.given) == (413, 101)


class Trickle(io.RawIOBase):
    """A body that comes in pieces, however much is asked for."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    def read(self, size: int | None = -1) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def test_a_body_in_pieces_is_read_to_its_end() -> None:
    """A server may hand over what has come so far: the rest is read too, and counted."""
    assert read_body(Trickle(b"01", b"2345", b"6"), "7", 100) == b"0123456"
    assert read_body(Trickle(b"01", b"2345", b"6"), None, 100) == b"0123456"
    with pytest.raises(Refused):
        read_body(Trickle(*[b"x" * 60] * 2), None, 100)


@pytest.mark.parametrize("length", ["ten", "1e3", "-1", "+1", "1_0", " ", "१०", "0x10", "1.0", "1,1"])
def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    """By name: two readers could read it in two ways."""
    with pytest.raises(InvalidRequest) as caught:
        read_body(io.BytesIO(b""), length, 100)
    assert caught.value.data == {"field": "Content-Length"}


@pytest.mark.parametrize("length", ["11", "100"])
def test_a_body_that_ends_early_is_refused(length: str) -> None:
    """Found by fuzzing: what came before the connection was closed was taken for the whole, and called."""
    with pytest.raises(Refused, match="ended before") as caught:
        read_body(io.BytesIO(b"0123456789"), length, 100)
    assert caught.value.status == 400


class Broken(io.RawIOBase):
    """A body that cannot be read on."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidChunkSize(b"0x1f"), 400),
        (ChunkMissingTerminator(b":"), 400),
        (ConnectionResetError("gone"), 400),
        (TimeoutError("slow"), 408),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_body_that_cannot_be_read_is_refused(error: Exception, status: int) -> None:
    """Found by fuzzing: a malformed chunk was answered with 500, and a traceback in the log."""
    with pytest.raises(Refused) as caught:
        read_body(Broken(error), None, 100)
    assert caught.value.status == status


@pytest.mark.parametrize("coding", [None, "chunked", " Chunked\t"])
def test_a_body_may_come_in_chunks(coding: str | None) -> None:
    """Nothing is said against it."""
    check_transfer(coding)


@pytest.mark.parametrize("coding", ["gzip, chunked", "chunked,chunked", "gzip", "identity", ""])
def test_no_other_transfer_coding_is_taken(coding: str) -> None:
    """Found by fuzzing: ``gzip, chunked`` was read as if it were not compressed, which whoever is in front may do."""
    with pytest.raises(Refused) as caught:
        check_transfer(coding)
    assert caught.value.status == 400
