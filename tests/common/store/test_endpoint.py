"""A Redis address taken apart: the same server, user and database as redis-py would take."""

from __future__ import annotations

import ssl

import pytest

from common.domain.errors import ConfigurationError
from common.store.client import StoreAddress
from common.store.endpoint import endpoint_of, pack


@pytest.mark.parametrize(
    ("url", "place", "greeting"),
    [
        ("redis://h", ("h", 6379, None), ()),
        ("redis://h:1/0", ("h", 1, None), ()),
        ("redis://h:1/2", ("h", 1, None), (("SELECT", "2"),)),
        ("redis://h:1/?db=3", ("h", 1, None), (("SELECT", "3"),)),
        ("redis://:p%40w@h:1/2", ("h", 1, None), (("AUTH", "p@w"), ("SELECT", "2"))),
        ("redis://u:p%2F@[::1]:1/0", ("::1", 1, None), (("AUTH", "u", "p/"),)),
        ("unix:///run/r.sock?db=4", ("localhost", 6379, "/run/r.sock"), (("SELECT", "4"),)),
        ("unix://u:p@/run/r.sock", ("localhost", 6379, "/run/r.sock"), (("AUTH", "u", "p"),)),
        ("unix:///run/r%20s.sock?password=x", ("localhost", 6379, "/run/r s.sock"), (("AUTH", "x"),)),
    ],
)
def test_what_an_address_says(
    url: str, place: tuple[str, int, str | None], greeting: tuple[tuple[str, ...], ...]
) -> None:
    """Where, and how to begin."""
    found = endpoint_of(StoreAddress(url=url))
    assert (found.host, found.port, found.path) == place
    assert found.greeting == greeting
    assert found.tls is None
    assert found.opening() == b"".join(pack(command) for command in greeting)


@pytest.mark.parametrize(
    ("query", "mode", "checks"),
    [
        ("", ssl.CERT_REQUIRED, True),
        ("?ssl_cert_reqs=required", ssl.CERT_REQUIRED, True),
        ("?ssl_cert_reqs=none", ssl.CERT_NONE, False),
        ("?ssl_cert_reqs=optional", ssl.CERT_OPTIONAL, False),
        ("?ssl_check_hostname=false", ssl.CERT_REQUIRED, False),
    ],
)
def test_encryption_is_checked_unless_told_otherwise(query: str, mode: ssl.VerifyMode, checks: bool) -> None:
    """By redis-py's words."""
    tls = endpoint_of(StoreAddress(url=f"rediss://h:1/0{query}")).tls
    assert tls is not None
    context = tls.now()
    assert (context.verify_mode, context.check_hostname) == (mode, checks)


@pytest.mark.parametrize(
    "url",
    ["http://:s3cr3t@h", "redis://h:s3cr3t/0", "redis://:s3cr3t/x@h:1/0", "redis://:[s3cr3t@h", "", "h:1"],
)
def test_what_is_no_address_is_a_configuration_error(url: str) -> None:
    """That repeats no piece of the password."""
    with pytest.raises(ConfigurationError, match=r"redis\.url") as caught:
        endpoint_of(StoreAddress(url=url))
    assert caught.value.data == {"field": "redis.url"}
    assert "s3cr3t" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_a_password_is_not_shown() -> None:
    """Not in a repr."""
    assert "s3cr3t" not in repr(endpoint_of(StoreAddress(url="redis://u:s3cr3t@h:1/0")))


def test_commands_are_packed_as_redis_reads_them() -> None:
    """Text as UTF-8, bytes as they are, numbers in decimal."""
    assert pack(("SET", b"\xff", 1, 2.5, "ü")) == (
        b"*5\r\n$3\r\nSET\r\n$1\r\n\xff\r\n$1\r\n1\r\n$3\r\n2.5\r\n$2\r\n\xc3\xbc\r\n"
    )
