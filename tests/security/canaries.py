"""Secrets of a test, and all the places in which they might be found.

A *canary* is a text that stands nowhere but where the test puts it. Whoever adds a place where the gateway writes
something (traces, metrics, a console) adds a function to :data:`PLACES`; whoever adds a way for secrets to come in adds
a canary. What is found where it must not be is a leak.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from redis import Redis

from tests.security import shown
from tests.support.otlp_collector import Collector
from tests.support.servers.gateway import RunningGateway
from tests.worker.credentials.issuing import pem

NAMES = (
    *("bearer", "cookie", "argument", "result", "error", "child_env", "tool_header", "url_userinfo"),
    *("redis_password", "client_answer", "watched_uri", "progress_token", "sse_message", "dead_letter"),
    *("encryption_secret", "admin_token", "metrics_token", "chain_key", "telemetry_header"),
    *("static_credential", "environment_credential", "file_credential", "vault_credential"),
    *("aws_credential", "gcp_credential", "vault_token", "client_secret", "aws_secret_key"),
)
SIGNING_KEY = pem("ES256", "canary")
CANARIES: Mapping[str, str] = {
    **{name: f"canary-{name.replace('_', '-')}-{uuid4().hex}" for name in NAMES},
    "signing_key": SIGNING_KEY.splitlines()[2],
    "account_key": pem("RS256", "gcp").splitlines()[2],
    # How every token begins that a server of the tests gives out.
    "issued_token": "canary-secret-issued-",
    "gcp_token": "canary-google-",
}


@dataclass(slots=True, kw_only=True)
class Scene:
    """A gateway that ran with all canaries: its Redis, what that was told meanwhile, its files and processes."""

    redis: Redis
    traffic: bytearray = field(default_factory=bytearray)
    directory: Path
    gateway: RunningGateway
    collector: Collector
    _found: dict[str, bytes] = field(default_factory=dict)

    def place(self, name: str) -> bytes:
        """What one of :data:`PLACES` held when it was looked into first."""
        if name not in self._found:
            self._found[name] = PLACES[name](self)
        return self._found[name]

    @property
    def pid(self) -> int:
        """Of ``canalgate up``."""
        return self.gateway.process.popen.pid


@contextlib.contextmanager
def overheard(path: str, password: str, heard: bytearray) -> Iterator[None]:
    """Hear every command that a server on a Unix socket runs, those of scripts and publications included."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        line.sendall(b"AUTH %b\r\nMONITOR\r\n" % password.encode())

        def listen() -> None:
            with contextlib.suppress(OSError):
                while data := line.recv(1 << 16):
                    heard.extend(data)

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield
        finally:
            line.shutdown(socket.SHUT_RDWR)
            thread.join()


def redis_traffic(scene: Scene) -> bytes:
    """All that Redis was told while the gateway ran; what lay there for a moment as well."""
    return bytes(scene.traffic)


def redis_dump(scene: Scene) -> bytes:
    """Every key of every type, as it is at the end."""
    reads: dict[bytes, Callable[[bytes], Any]] = {
        b"string": scene.redis.get,
        b"hash": scene.redis.hgetall,
        b"list": lambda key: scene.redis.lrange(key, 0, -1),
        b"set": scene.redis.smembers,
        b"zset": lambda key: scene.redis.zrange(key, 0, -1, withscores=True),
        b"stream": scene.redis.xrange,
    }
    found = []
    for key in scene.redis.scan_iter(count=1000):
        kind: bytes = scene.redis.type(key)
        if kind != b"none":
            found.append(repr((key, reads[kind](key))))
    return "\n".join(found).encode()


def redis_files(scene: Scene) -> bytes:
    """What Redis keeps on its disk: every write since the start, and a snapshot. Not compressed."""
    scene.redis.save()
    home = Path(scene.redis.config_get("dir")["dir"])
    return b"\n".join(
        path.read_bytes() for path in home.rglob("*") if path.is_file() and path.suffix in {".aof", ".rdb"}
    )


def files(scene: Scene) -> bytes:
    """Logs and state of the gateway, but for its :data:`OWN_FILES`."""
    return b"\n".join(
        path.read_bytes()
        for path in scene.directory.rglob("*")
        if path.is_file() and path.name not in OWN_FILES
    )


def command_lines(scene: Scene) -> bytes:
    """Of the gateway's processes and its tools'."""
    found = [psutil.Process(scene.pid)]
    found += found[0].children(recursive=True)
    words = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            words += process.cmdline()
    return "\n".join(words).encode()


def traces(scene: Scene) -> bytes:
    """All that the collector was sent."""
    return b"\n".join(scene.collector.raw)


def metrics(scene: Scene) -> bytes:
    """The page for Prometheus."""
    return shown.metrics(scene.gateway, CANARIES["metrics_token"])


def admin_answers(scene: Scene) -> bytes:
    """What an administrator can read."""
    return shown.admin_answers(scene.gateway, CANARIES["admin_token"])


def outputs(scene: Scene) -> bytes:
    """Of the command line."""
    return shown.outputs(scene.gateway)


def environments(scene: Scene) -> bytes:
    """Of the gateway's own processes."""
    return b"\n".join(shown.environments(scene.pid, tools=False).values())


def tool_environments(scene: Scene) -> bytes:
    """Of the tools' processes."""
    return b"\n".join(shown.environments(scene.pid, tools=True).values())


OWN_FILES = frozenset({"canalgate.yaml", "run.json"})
"""The operator's settings, and what ``canalgate up`` tells the command line (mode 0600): the URL of Redis."""
PLACES: Mapping[str, Callable[[Scene], bytes]] = {
    "redis traffic": redis_traffic,
    "redis dump": redis_dump,
    "redis files": redis_files,
    "files": files,
    "command lines": command_lines,
    "traces": traces,
    "metrics": metrics,
    "admin API": admin_answers,
    "outputs": outputs,
    "environments": environments,
    "environments of tools": tool_environments,
}
ALLOWED: Mapping[str, frozenset[str]] = {
    # Its producer is a stock one, which seals nothing: it put it there itself.
    "redis traffic": frozenset({"dead_letter"}),
    "redis files": frozenset({"dead_letter"}),
    # The programs are told where Redis is, and inherit what the provider environment reads.
    "environments": frozenset({"redis_password", "environment_credential"}),
    # Each holds what it was given, and what stands in the settings for it.
    "environments of tools": frozenset(
        {
            *("child_env", "static_credential", "environment_credential", "file_credential"),
            *("vault_credential", "aws_credential", "gcp_credential", "issued_token"),
        }
    ),
}
"""Canaries that may be found in a place."""


def leaks(scene: Scene) -> list[tuple[str, str]]:
    """Each place with the canary that was found there and must not be."""
    found = []
    for place in PLACES:
        text = scene.place(place)
        found += [
            (place, name)
            for name, canary in CANARIES.items()
            if canary.encode() in text and name not in ALLOWED.get(place, frozenset())
        ]
    return found
