"""HTTP as it should not be, byte by byte: each has one status, and none is read in two ways."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway

pytestmark = pytest.mark.e2e
BODY = modern("http://localhost/mcp").wire("tools/list").partition(b"\r\n\r\n")[2]
HEAD = (
    b"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\n"
    b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
)
SIZE = b"%d" % len(BODY)
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def post(
    framing: bytes = b"Content-Length: " + SIZE,
    body: bytes = BODY,
    *,
    line: bytes = b"POST /mcp HTTP/1.1",
    host: bytes = b"Host: localhost\r\n",
    extra: bytes = b"",
) -> bytes:
    """A request with one thing that is other than it should be."""
    return line + b"\r\n" + host + HEAD + extra + framing + b"\r\n\r\n" + body


CASES: list[tuple[str, bytes, int]] = [
    ("nothing wrong", post(), 200),
    ("in chunks", post(b"Transfer-Encoding: chunked", CHUNKS), 200),
    ("in chunks, HTTP/1.0", post(b"Transfer-Encoding: chunked", CHUNKS, line=b"POST /mcp HTTP/1.0"), 400),
    ("length and chunks", post(b"Content-Length: " + SIZE + b"\r\nTransfer-Encoding: chunked", CHUNKS), 400),
    ("chunks and length", post(b"Transfer-Encoding: chunked\r\nContent-Length: " + SIZE, CHUNKS), 400),
    ("two lengths", post(b"Content-Length: 0\r\nContent-Length: " + SIZE), 400),
    ("a length twice", post(b"Content-Length: " + SIZE + b"\r\nContent-Length: " + SIZE), 400),
    ("a signed length", post(b"Content-Length: +" + SIZE), 400),
    ("a list of lengths", post(b"Content-Length: " + SIZE + b"," + SIZE), 400),
    ("a length in hexadecimal", post(b"Content-Length: 0x10"), 400),
    ("a space before the colon", post(b"Content-Length : " + SIZE), 400),
    ("a body that ends early", post(b"Content-Length: 9" + SIZE), 400),
    ("another coding", post(b"Transfer-Encoding: xchunked", CHUNKS), 501),
    ("a coding under the chunks", post(b"Transfer-Encoding: gzip, chunked", CHUNKS), 400),
    ("chunks under a coding", post(b"Transfer-Encoding: chunked, gzip", CHUNKS), 400),
    ("chunked twice", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", CHUNKS), 400),
    ("a malformed chunk", post(b"Transfer-Encoding: chunked", b"0x" + CHUNKS), 400),
    ("a chunk without its end", post(b"Transfer-Encoding: chunked", CHUNKS[:-12] + b"0\r\n\r\n"), 400),
    ("no last chunk", post(b"Transfer-Encoding: chunked", CHUNKS[:-5]), 400),
    ("no length at all", post(b"X: y"), 400),
    ("a folded header", post(extra=b"X: a\r\n b\r\n"), 400),
    ("NUL in a header", post(extra=b"X: a\0b\r\n"), 400),
    ("NUL in a name", post(extra=b"X\0: a\r\n"), 400),
    ("bare line feeds", post().replace(b"\r\n", b"\n"), 400),
    ("no Host", post(host=b""), 400),
    ("two Hosts", post(extra=b"Host: localhost\r\n"), 400),
    ("a path in the Host", post(host=b"Host: a/?x\r\n"), 400),
    ("another Host", post(host=b"Host: evil.example\r\n"), 421),
    ("a prefix by header", post(extra=b"SCRIPT_NAME: /servers\r\n"), 400),
    ("a method by header", post(extra=b"X-HTTP-Method-Override: DELETE\r\n"), 200),
    ("two slashes", post(line=b"POST //mcp HTTP/1.1"), 404),
    ("a coded slash, which a tool's id may hold", post(line=b"POST /servers%2flocal/mcp HTTP/1.1"), 200),
    ("a way round", post(line=b"POST /livez/../mcp HTTP/1.1"), 404),
    ("a coded way round", post(line=b"POST /livez%2f..%2fmcp HTTP/1.1"), 404),
    ("HEAD", post(line=b"HEAD /mcp HTTP/1.1"), 405),
    ("TRACE", post(line=b"TRACE /mcp HTTP/1.1"), 405),
    ("lower case", post(line=b"post /mcp HTTP/1.1"), 400),
    ("no HTTP", post(line=b"POST /mcp HTP/1.1"), 400),
    ("HTTP/2 by name", post(line=b"POST /mcp HTTP/2.0"), 400),
    ("a long line", post(line=b"POST /" + b"a" * 5000 + b" HTTP/1.1"), 414),
    ("a long header", post(extra=b"X: " + b"x" * 9000 + b"\r\n"), 431),
    ("many headers", post(extra=b"X: x\r\n" * 120), 431),
    ("too much", post(b"Content-Length: 999999999", b""), 413),
]


@pytest.mark.parametrize(("raw", "status"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_it_has_one_status(gateway: RunningGateway, raw: bytes, status: int) -> None:
    """And nothing but one answer comes, unless the connection goes on, which then ends with ours."""
    heard = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # what it did not read is thrown away
            while piece := sock.recv(65536):
                heard += piece
    assert heard.split(b"\r\n", 1)[0].split(b" ")[1:2] == [b"%d" % status], heard[:500]
    assert heard.count(b"HTTP/1.1 ") == 1
    assert b"Traceback" not in heard
    assert "Traceback" not in (gateway.config.parent / "state" / "logs" / "web.log").read_text()


def test_an_upload_without_end_that_was_refused_is_cut_off(gateway: RunningGateway) -> None:
    """What its client goes on sending is taken up to some bound; others are served meanwhile."""
    piece, sent = b"x" * (1 << 20), 0
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as sock:
        sock.sendall(post(b"Content-Length: 999999999999", b""))
        with contextlib.suppress(ConnectionError):
            while sent < 64:
                sock.sendall(piece)
                sent += 1
                if sent % 8 == 0:
                    assert modern(gateway.url + "/mcp").post("tools/list", {}).status_code == 200
    assert sent < 32
