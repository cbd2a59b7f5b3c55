"""A request as bytes: rightly framed, wrongly framed, or damaged."""

from __future__ import annotations

from random import Random

from tests.support.fuzz.requests import Draft, Headers


def _head(draft: Draft, framing: Headers) -> bytes:
    lines = [
        f"{draft.verb} {draft.path} {draft.version}",
        *(f"{name}: {text}" for name, text in draft.headers + framing),
    ]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n"


def on_the_wire(draft: Draft, body: bytes) -> bytes:
    if draft.rng.random() < 0.15:
        return _head(draft, [("Transfer-Encoding", "chunked")]) + _chunked(draft.rng, body)
    return _head(draft, [("Content-Length", str(len(body)))]) + body


def _chunked(rng: Random, body: bytes) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        size = rng.randrange(1, max(2, len(body)))
        piece = body[at : at + size]
        pieces.append(b"%x%b\r\n%b\r\n" % (len(piece), rng.choice((b"", b"", b";ext=1")), piece))
        at += size
    return b"".join(pieces) + b"0\r\n\r\n"


def reframed(draft: Draft, body: bytes) -> bytes:
    """Something about where the body ends is wrong, or at least unusual."""
    rng, size = draft.rng, str(len(body))
    chunked = _chunked(rng, body)
    second = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    draft.version = rng.choice(
        ("HTTP/1.1",) * 6 + ("HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTP/1.1", "")
    )
    shapes: tuple[tuple[Headers, bytes], ...] = (
        ([("Content-Length", str(max(0, len(body) - rng.randrange(1, 9))))], body),
        ([("Content-Length", str(len(body) + rng.randrange(1, 9)))], body),
        ([("Content-Length", "+" + size)], body),
        ([("Content-Length", "0" + size)], body),
        ([("Content-Length", size + ", " + size)], body),
        ([("Content-Length", size), ("Content-Length", size)], body),
        ([("Content-Length", size), ("Content-Length", "0")], body),
        ([("Content-Length", "9" * 30)], body),
        ([("Content-Length", "-1")], body),
        ([("Content-Length", "٣")], body),
        ([], body),
        ([("Transfer-Encoding", "chunked"), ("Content-Length", size)], chunked),
        ([("Content-Length", size), ("Transfer-Encoding", "chunked")], body),
        ([("Transfer-Encoding", "xchunked")], chunked),
        ([("Transfer-Encoding", "chunked, identity")], chunked),
        ([("Transfer-Encoding", "gzip, chunked")], chunked),
        ([("Transfer-Encoding", " chunked")], chunked),
        ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], chunked),
        ([("Transfer-Encoding", "chunked")], chunked.replace(b"\r\n", b"\n")),
        ([("Transfer-Encoding", "chunked")], b"0x" + chunked),
        ([("Transfer-Encoding", "chunked")], b"-" + chunked),
        ([("Transfer-Encoding", "chunked")], chunked[:-5]),
        ([("Transfer-Encoding", "chunked")], chunked[:-2] + b"Mcp-Name: other\r\n\r\n"),
        ([("Content-Length", size)], body + second),
        ([("Transfer-Encoding", "chunked")], chunked + second),
        ([("Content-Length ", size)], body),
        ([("Content-Length", size), ("X", "a\r\n b")], body),
        ([(f"X-{at}", "x") for at in range(120)] + [("Content-Length", size)], body),
    )
    framing, sent = rng.choice(shapes)
    return _head(draft, framing) + sent


def broken(rng: Random, raw: bytes) -> bytes:
    """A byte or a few are others, gone, or new."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(data):
                del data[at : at + rng.choice((1, 1, 3, 20))]
            case 2:
                data[at:at] = rng.choice(
                    (b"\x00", b'"', b"{", b"\\", b"\r\n", b"\n", b",", b"\xff", b":", b" ", b"\xc3")
                )
            case _:
                del data[at:]
    return bytes(data)
