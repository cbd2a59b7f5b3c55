"""Redis URLs: two spellings, understood by redis-py and kombu as we mean them, and shown without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
from kombu.utils.url import url_to_parts as parse_for_kombu
from redis.connection import parse_url as parse_for_redis_py

from gateway_web.supervisor import RedisUrl, RedisUrlError


@pytest.mark.parametrize(
    ("given", "redis_py", "celery", "shown"),
    [
        ("redis://h", "redis://h:6379/0", "redis://h:6379/0", "redis://h:6379/0"),
        ("redis://h:1/2", "redis://h:1/2", "redis://h:1/2", "redis://h:1/2"),
        ("redis://h?db=3", "redis://h:6379/3", "redis://h:6379/3", "redis://h:6379/3"),
        ("redis://[::1]:1/2", "redis://[::1]:1/2", "redis://[::1]:1/2", "redis://[::1]:1/2"),
        ("redis://:p%40@h/0", "redis://:p%40@h:6379/0", "redis://:p%40@h:6379/0", "redis://h:6379/0"),
        ("redis://u:p@h/0", "redis://u:p@h:6379/0", "redis://u:p@h:6379/0", "redis://h:6379/0"),
        (
            "rediss://h/0?ssl_cert_reqs=none",
            "rediss://h:6379/0?ssl_cert_reqs=none",
            "rediss://h:6379/0?ssl_cert_reqs=none",
            "rediss://h:6379/0",
        ),
        (
            "unix:///a/b.sock",
            "unix:///a/b.sock?db=0",
            "redis+socket:///a/b.sock?virtual_host=0",
            "unix:///a/b.sock?db=0",
        ),
        (
            "redis+socket:///a/b.sock?virtual_host=4",
            "unix:///a/b.sock?db=4",
            "redis+socket:///a/b.sock?virtual_host=4",
            "unix:///a/b.sock?db=4",
        ),
        (
            "unix:///a%20b.sock?db=1&password=p%26",
            "unix://:p%26@/a%20b.sock?db=1",
            "redis+socket://:p%26@/a%20b.sock?virtual_host=1",
            "unix:///a b.sock?db=1",
        ),
    ],
)
def test_each_url_has_a_spelling_for_both_libraries_and_one_to_show(
    given: str, redis_py: str, celery: str, shown: str
) -> None:
    """Defaults are filled in, quoting is kept, and what is shown has neither user, password nor options."""
    url = RedisUrl.parse(given)
    assert (url.for_redis_py, url.for_celery, url.shown) == (redis_py, celery, shown)
    assert RedisUrl.parse(redis_py) == url
    assert RedisUrl.parse(celery) == url


def test_redis_py_and_kombu_read_a_socket_with_password_alike() -> None:
    """Path with a space, user, password with reserved characters, and database arrive at both."""
    url = RedisUrl(scheme="unix", path="/a b/#.sock", db=2, username="u", password="p:/@?#%")
    ours = parse_for_redis_py(url.for_redis_py)  # type: ignore[no-untyped-call]
    assert (ours["path"], ours["db"], ours["username"], ours["password"]) == (
        "/a b/#.sock",
        2,
        "u",
        "p:/@?#%",
    )
    theirs = parse_for_kombu(url.for_celery.removeprefix("redis+"))
    assert (theirs.path, theirs.query) == ("a b/#.sock", {"virtual_host": "2"})
    assert (theirs.username, theirs.password) == ("u", "p:/@?#%")


def test_a_url_for_a_path_is_quoted() -> None:
    """``for_socket`` takes any path."""
    url = RedisUrl.for_socket(Path("/run/with space/redis.sock"))
    assert url.for_redis_py == "unix:///run/with%20space/redis.sock?db=0"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("http://h", "scheme 'http' is not one of redis, rediss, unix, redis\\+socket"),
        ("localhost:6379", "scheme"),
        ("redis://u:secret@h:port/0", "port"),
        ("redis://u:secret@h:99999/0", "port"),
        ("redis://u:secret@h/first", "database is not a number"),
        ("unix://u:secret@?db=0", "absolute path"),
        ("unix:///a.sock?db=x&password=secret", "database is not a number"),
    ],
)
def test_a_url_that_makes_no_sense_is_an_error_without_its_secrets(given: str, problem: str) -> None:
    """The message says what to write instead, and never repeats the URL."""
    with pytest.raises(RedisUrlError, match=problem) as caught:
        RedisUrl.parse(given)
    assert "secret" not in str(caught.value)


def test_the_representation_holds_no_password() -> None:
    """A URL in a traceback or a log line gives nothing away."""
    assert "secret" not in repr(RedisUrl.parse("redis://u:secret@h/0"))
