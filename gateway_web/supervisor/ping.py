"""PING a Redis server over a plain socket: the supervisor waits for servers, it does not use them."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

from common.domain.tls import TlsRules
from common.tls import client_context
from gateway_web.supervisor.errors import RedisUnreachableError, RedisUrlError
from gateway_web.supervisor.redis_url import RedisUrl

_LONGEST_LINE = 512


def ping(url: RedisUrl, *, timeout: float = 2.0) -> None:
    """Log in, select the database, PING; ``timeout`` seconds for each step.

    Raises:
        RedisUnreachableError: with the server's or the system's words for the reason, without the password.
    """
    commands: list[tuple[str, ...]] = [("PING",)]
    if url.db:
        commands.insert(0, ("SELECT", str(url.db)))
    if url.password is not None:
        commands.insert(0, ("AUTH", *([url.username] if url.username else []), url.password))
    try:
        with _connected(url, timeout) as connection:
            for command in commands:
                _expect_success(url, command[0], _ask(connection, command))
    except (OSError, UnicodeError) as error:
        reason = "no answer in time" if isinstance(error, TimeoutError) else error
        raise RedisUnreachableError(f"no Redis server answers at {url.shown}: {reason}") from error


def shut_down(url: RedisUrl, *, timeout: float = 2.0) -> bool:
    """Ask the server at a socket of ours to save and exit; False if there is none.

    Raises:
        RedisUnreachableError: there is one, and it does not exit.
    """
    try:
        with _connected(url, timeout) as connection:
            answer = _ask(connection, ("SHUTDOWN",))
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except ConnectionError:  # it exits without an answer, perhaps while we still write
        return True
    except OSError as error:
        raise RedisUnreachableError(f"the Redis server at {url.shown} does not exit: {error}") from error
    if answer:
        raise RedisUnreachableError(f"the Redis server at {url.shown} does not exit: {answer}")
    return True


def _expect_success(url: RedisUrl, command: str, answer: str) -> None:
    if answer.startswith("+"):
        return
    problem = answer.removeprefix("-") or "the connection was closed"
    hint = ""
    if problem.startswith(("NOAUTH", "WRONGPASS")):
        hint = "; check user and password in redis.url"
    raise RedisUnreachableError(f"the Redis server at {url.shown} refuses {command}: {problem}{hint}")


def _ask(connection: socket.socket, command: tuple[str, ...]) -> str:
    """Send a command in RESP 2, return the first line of the answer, empty when the server hung up."""
    words = [word.encode() for word in command]
    request = b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)])
    connection.sendall(request)
    line = b""
    while not line.endswith(b"\r\n") and len(line) < _LONGEST_LINE:
        chunk = connection.recv(_LONGEST_LINE)
        if not chunk:
            return ""
        line += chunk
    return line.decode(errors="replace").strip()


@contextlib.contextmanager
def _connected(url: RedisUrl, timeout: float) -> Iterator[socket.socket]:
    if url.scheme == "unix":
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(url.path)
            yield connection
        return
    with socket.create_connection((url.host, url.port), timeout) as plain:
        if url.scheme == "redis":
            yield plain
            return
        with _tls(url).wrap_socket(plain, server_hostname=url.host) as encrypted:
            yield encrypted


def _tls(url: RedisUrl) -> ssl.SSLContext:
    """A client context from those of redis-py's ``ssl_*`` options that decide whom we trust."""
    oldest = url.option("ssl_min_version")
    context = client_context(
        TlsRules(
            ca_file=url.option("ssl_ca_certs"),
            cert_file=(certificate := url.option("ssl_certfile")),
            key_file=url.option("ssl_keyfile") if certificate else None,
            min_version="1.3" if oldest == str(int(ssl.TLSVersion.TLSv1_3)) else "1.2",
        )
    )
    demand = (url.option("ssl_cert_reqs") or "required").lower().removeprefix("cert_")
    if demand not in ("none", "optional", "required"):
        raise RedisUrlError("redis.url: ssl_cert_reqs is not one of none, optional, required")
    if demand == "none" or (url.option("ssl_check_hostname") or "").lower() in ("false", "0", "no"):
        context.check_hostname = False
    if demand == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
