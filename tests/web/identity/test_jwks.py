"""The issuer's keys: rotated, stale, and served by a server that misbehaves."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.domain.egress import STRICT
from common.domain.errors import IdentityUnavailable
from common.settings import JwtSettings
from gateway_web.identity import jwks
from gateway_web.identity.fetching import NotFetched, read_document
from gateway_web.identity.jwks import Jwks, parsed
from gateway_web.identity.refusals import Unrecognised
from tests.support.servers.issuer import Issuer, jwk, running_issuer
from tests.support.wait import wait_until
from tests.web.identity.support import no_thread_once

TTL, STALE, COOLDOWN = 100, 1000, 10


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def keys_of(issuer: Issuer, clock: Clock | None = None, **changes: Any) -> Jwks:
    times = {
        "jwks_ttl": TTL,
        "jwks_max_stale": STALE,
        "jwks_cooldown": COOLDOWN,
        "jwks_timeout": 2,
        **changes,
    }
    settings = JwtSettings(issuer=issuer.name, jwks=issuer.jwks, audience=("a",), tenant="t", **times)
    return Jwks(settings, partial(read_document, egress=STRICT), clock=clock or Clock())


def test_keys_are_fetched_once(issuer: Issuer) -> None:
    """And used as they are until they are old."""
    keys = keys_of(issuer)
    assert all(keys.find("k1", "ES256").key_id == "k1" for _ in range(5))
    assert issuer.asked == 1


def test_a_new_key_is_found_when_it_is_needed(issuer: Issuer) -> None:
    """At most once in the cooldown: invented names do not make us ask."""
    clock = Clock()
    keys = keys_of(issuer, clock)
    keys.find("k1", "ES256")
    issuer.keys = [jwk("ES256", "k2")]
    clock.now += COOLDOWN
    assert keys.find("k2", "ES256").key_id == "k2"
    for kid in ("k1", "k3", "k4", None):
        if kid is not None:
            with pytest.raises(Unrecognised):
                keys.find(kid, "ES256")
    assert issuer.asked == 2
    clock.now += COOLDOWN
    with pytest.raises(Unrecognised):
        keys.find("k3", "ES256")
    assert issuer.asked == 3


def test_old_keys_are_fetched_in_the_background(issuer: Issuer) -> None:
    """Nobody waits for that; what the issuer took back is gone then."""
    clock = Clock()
    keys = keys_of(issuer, clock)
    keys.find("k1", "ES256")
    issuer.keys = [jwk("ES256", "k2")]
    issuer.behave = "hangs"
    clock.now += TTL + 1
    assert keys.find("k1", "ES256").key_id == "k1"
    issuer.go.set()
    wait_until(lambda: keys._set is not None and keys._set.keys[0]["kid"] == "k2", description="the new keys")
    with pytest.raises(Unrecognised):
        keys.find("k1", "ES256")


def test_a_fetch_without_a_thread_is_tried_again(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever needs the keys next; meanwhile the old ones are used."""
    clock = Clock()
    keys = keys_of(issuer, clock)
    keys.find("k1", "ES256")
    clock.now += TTL + 1
    no_thread_once(monkeypatch, jwks)
    assert keys.find("k1", "ES256").key_id == "k1"
    assert issuer.asked == 1
    assert keys.find("k1", "ES256").key_id == "k1"
    wait_until(lambda: issuer.asked == 2 and not keys._in_background, description="the fetch")


@pytest.mark.parametrize("behave", ["fails", "rubbish", "redirects", "floods"])
def test_stale_keys_are_good_for_a_bounded_time(issuer: Issuer, behave: str) -> None:
    """While the issuer cannot be asked; then nobody is let in, and the issuer is not stormed."""
    clock = Clock()
    keys = keys_of(issuer, clock)
    keys.find("k1", "ES256")
    issuer.behave = behave
    clock.now += TTL + STALE
    assert keys.find("k1", "ES256").key_id == "k1"
    wait_until(lambda: not keys._in_background, description="the attempt to end")
    clock.now += 1.5
    asked = issuer.asked
    for _ in range(3):
        with pytest.raises(IdentityUnavailable):
            keys.find("k1", "ES256")
    assert issuer.asked <= asked + 2  # the redirect may be seen as one more
    issuer.behave = "well"
    clock.now += 1.5
    assert keys.find("k1", "ES256").key_id == "k1"


def test_without_keys_nobody_is_let_in(issuer: Issuer) -> None:
    """And soon after the issuer is back everybody is."""
    clock = Clock()
    issuer.behave = "fails"
    keys = keys_of(issuer, clock)
    with pytest.raises(IdentityUnavailable) as caught:
        keys.find("k1", "ES256")
    assert caught.value.data == {"retry_after": 1}
    issuer.behave = "well"
    clock.now += 1
    assert keys.find("k1", "ES256").key_id == "k1"


def test_those_who_come_at_the_same_time_share_one_fetch(issuer: Issuer) -> None:
    """They wait for whoever fetches."""
    issuer.behave = "hangs"
    keys = keys_of(issuer)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(keys.find("k1", "ES256"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    wait_until(lambda: issuer.asked == 1, description="the first to ask")
    issuer.go.set()
    for thread in threads:
        thread.join(10)
    assert (len(found), issuer.asked) == (5, 1)


@pytest.mark.parametrize("first", [b"\x16\x03\x03\x40\x00", b"HTTP/1.1 200 OK\r\nX-Long: "])
def test_a_deadline_is_for_whatever_comes_byte_by_byte(first: bytes) -> None:
    """Also a handshake, and headers: each byte is in time, and there is no end."""
    with raw_server(first) as port:
        scheme = "https" if first.startswith(b"\x16") else "http"
        begun = time.monotonic()
        with pytest.raises(NotFetched, match=r"not complete within 0\.5 s"):
            read_document(f"{scheme}://127.0.0.1:{port}/jwks.json", 0.5, STRICT)
        assert time.monotonic() - begun < 3


@contextmanager
def raw_server(first: bytes) -> Iterator[int]:
    """It sends this, and then a byte every 50 ms until its client leaves."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            sock, _ = listener.accept()
            with sock:
                sock.sendall(first)
                while not over.wait(0.05):
                    sock.sendall(b"a")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            thread.join(10)


@pytest.mark.parametrize("behave", ["hangs", "drips"])
def test_a_fetch_has_a_deadline(issuer: Issuer, behave: str) -> None:
    """For the whole of it."""
    issuer.behave = behave
    begun = time.monotonic()
    with pytest.raises(NotFetched):
        read_document(issuer.jwks, 0.3, STRICT)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("behave", "words"),
    [("redirects", "HTTP status 302"), ("fails", "HTTP status 500"), ("floods", "larger than")],
)
def test_a_fetch_takes_what_it_asked_for(issuer: Issuer, behave: str, words: str) -> None:
    """No redirect is followed, and no more is read than can be meant."""
    issuer.behave = behave
    with pytest.raises(NotFetched, match=words):
        read_document(issuer.jwks, 5, STRICT)
    assert issuer.asked == 1


def test_a_document_may_be_a_file(tmp_path: Path) -> None:
    """Of a bounded size as well."""
    file = tmp_path / "k"
    file.write_bytes(b"{}")
    assert read_document(str(file), 1, STRICT) == b"{}"
    file.write_bytes(b" " * 600_000)
    for path in (str(file), str(tmp_path / "none"), str(tmp_path), "a\0b"):
        with pytest.raises(NotFetched):
            read_document(path, 1, STRICT)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [7]}',
        b'{"keys": [], "keys": []}',
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k1", "alg": "HS256"}]}',
        b'{"keys": [{"kty": "RSA", "use": "enc", "kid": "k1"}]}',
        b'{"keys": [{"kty": "EC", "key_ops": "verify"}]}',
        b'{"keys": [{"kty": "EC", "key_ops": ["sign"]}]}',
    ],
)
def test_what_has_no_public_key_is_no_key_set(raw: bytes) -> None:
    """A symmetric one in a document that everybody may read is none."""
    with pytest.raises(NotFetched):
        parsed(raw)


@pytest.mark.parametrize(
    "key",
    [
        {"kty": "RSA", "kid": "k1", "n": "!", "e": "AQAB"},
        {"kty": "EC", "kid": "k1", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": "k1", "crv": "P-384", "x": "AA", "y": "AA"},
        {"kty": "EC", "kid": ["k1"], "crv": "P-256"},
        {"kty": "OKP", "kid": "k1", "crv": "X25519", "x": "AA"},
    ],
)
def test_a_key_that_cannot_be_used_is_none(key: dict[str, Any]) -> None:
    """It does not keep the others from being used."""
    import orjson

    found = parsed(orjson.dumps({"keys": [key, jwk("ES256", "good")]}))
    for algorithm in ("ES256", "RS256", "EdDSA"):
        assert found.find("k1", algorithm) is None
    assert found.find("good", "ES256") is not None


def test_two_keys_of_one_name_are_nobody_s() -> None:
    """Which one is meant cannot be said."""
    import orjson

    found = parsed(orjson.dumps({"keys": [jwk("ES256", "k1"), jwk("ES256", "k2") | {"kid": "k1"}]}))
    assert found.find("k1", "ES256") is None
