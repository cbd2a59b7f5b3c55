"""Sealed payloads: nobody opens them without the secret, elsewhere, or changed; keys are rotated without a pause."""

from __future__ import annotations

import base64
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.errors import PayloadUnreadable
from common.settings import RedisSettings
from common.store.key_ring import keys_of
from common.store.keys import Keys
from common.store.sealing import BEGINNING, SealingKey, Seals

OLD, NEW = SealingKey("old", b"o" * 32), SealingKey("new", b"n" * 32)
PLACE = ("call", "i-1", "tool.a")


def seals(*ring: SealingKey, prefix: str = "p", accept_plain: bool = False) -> Seals:
    """With the first of these keys, or all of them."""
    return Seals(ring or (OLD,), prefix=prefix, accept_plain=accept_plain)


def nonce_of(text: str) -> bytes:
    """Salt and count: what must never be there twice."""
    return base64.b64decode(text.rpartition(".")[2])[:24]


@given(st.binary(max_size=200), st.lists(st.text(max_size=8), min_size=1, max_size=3))
def test_what_was_sealed_opens_in_another_process(data: bytes, place: list[str]) -> None:
    """Under the same key, at the same place."""
    sealed = seals().seal(data, *place)
    assert seals().open(sealed, *place) == data
    assert sealed.isascii()
    assert sealed.startswith(BEGINNING)
    assert len(data) < 8 or data not in sealed


@pytest.mark.parametrize(
    "place", [("call", "i-2", "tool.a"), ("result", "i-1", "tool.a"), ("call", "i-1"), ("call", "i-1|tool.a")]
)
def test_it_opens_nowhere_else(place: tuple[str, ...]) -> None:
    """Nor in another gateway."""
    sealed = seals().seal(b"data", *PLACE)
    with pytest.raises(PayloadUnreadable):
        seals().open(sealed, *place)
    with pytest.raises(PayloadUnreadable):
        seals(prefix="q").open(sealed, *PLACE)


def test_keys_are_rotated_without_a_pause() -> None:
    """First every process learns the new one, then it seals, then the old one goes."""
    before, learning, turned, after = seals(OLD), seals(OLD, NEW), seals(NEW, OLD), seals(NEW)
    for sender, reader in (
        (before, learning),
        (learning, before),
        (learning, turned),
        (turned, learning),
        (turned, after),
    ):
        assert reader.open(sender.seal(b"data", *PLACE), *PLACE) == b"data"
    with pytest.raises(PayloadUnreadable) as caught:
        after.open(before.seal(b"data", *PLACE), *PLACE)
    assert "'old'" in caught.value.message
    assert "new" in caught.value.message


def test_another_secret_under_the_same_id_is_told() -> None:
    """And no secret is in the message."""
    with pytest.raises(PayloadUnreadable) as caught:
        seals(SealingKey("old", b"x" * 32)).open(seals().seal(b"data", *PLACE), *PLACE)
    assert "another secret" in caught.value.message
    assert "ooo" not in caught.value.message + repr(OLD) + repr(seals())


@given(st.data())
def test_whatever_is_changed_is_refused(data: st.DataObject) -> None:
    """Every byte of it; never another exception, and never other data (the last bits of base64 mean nothing)."""
    sealed = bytearray(seals().seal(b"some data", *PLACE))
    at = data.draw(st.integers(0, len(sealed) - 3))
    sealed[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != sealed[at]))
    with contextlib.suppress(PayloadUnreadable):
        assert seals().open(bytes(sealed), *PLACE) == b"some data"


@pytest.mark.parametrize(
    "junk",
    [
        b'{"sealed":""}',
        b'{"sealed":"cgs1"}',
        b'{"sealed":"cgs1.old.A"}',
        b'{"sealed":"cgs1.old.\xff"}',
        b'{"sealed":5}',
    ],
)
def test_junk_is_refused(junk: bytes) -> None:
    """In the same way."""
    with pytest.raises(PayloadUnreadable):
        seals().open(junk, *PLACE)


def test_plain_payloads_are_taken_by_leave_alone() -> None:
    """A process without keys takes them, and says so of sealed ones."""
    assert seals(accept_plain=True).open(b"plain", *PLACE) == b"plain"
    with pytest.raises(PayloadUnreadable):
        seals().open(b"plain", *PLACE)
    assert Keys().opened(b"plain", *PLACE) == b"plain" == Keys().sealed(b"plain", *PLACE)
    with pytest.raises(PayloadUnreadable):
        Keys().opened(seals().seal(b"data", *PLACE), *PLACE)


def test_no_nonce_is_used_twice() -> None:
    """By threads of one process, nor by a child that was forked from it."""
    one = seals()
    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda _: one.text(b"", *PLACE), range(2000)))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, one.text(b"", *PLACE).encode())
        os._exit(0)
    os.waitpid(child, 0)
    forked = os.read(read, 4096).decode()
    os.close(read)
    os.close(write)
    texts += [forked, one.text(b"", *PLACE), seals().text(b"", *PLACE)]
    assert len({nonce_of(text) for text in texts}) == len(texts)
    assert nonce_of(forked)[:16] != nonce_of(texts[0])[:16]


def test_the_settings_make_the_ring() -> None:
    """None: nothing is sealed."""
    assert keys_of(RedisSettings()).seals is None
    found = keys_of(
        RedisSettings(
            key_prefix="g",
            encryption_keys=({"id": "a", "secret": "s" * 32}, {"id": "b", "secret": "t" * 32}),  # type: ignore[arg-type]
            accept_plain=True,
        )
    )
    assert found.seals is not None
    assert (found.seals.ids, found.seals.accept_plain, found.prefix) == (("a", "b"), True, "g")
    assert "sss" not in repr(found)
