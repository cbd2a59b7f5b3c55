"""What a cluster consists of: its tools, its settings, and how its processes are started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.chaos.netns import Namespace
from tests.support.servers.process import REPOSITORY, SERVERS, server_command

SKEW = SERVERS.parent / "skew"
SOURCE = Path(os.environ.get("CHAOS_SOURCE", REPOSITORY))
"""The tree whose gateway is tried; the harness itself is always this one."""
AUDIT_KEY, AUDIT_FILE = "chaos", "audit.ndjson"
TENANTS = ("acme", "acme-x", "umbra")
"""The listed tenants: two of them run together if a key forgets where one part ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolPlan:
    """One tool of the file, on a recorder: a child of the workers, or with ``http`` a process of its own.

    ``fields`` are those of the tool's entry. One that the tree under test does not know is left out.
    """

    name: str
    http: bool = False
    era: str = "both"
    start_delay: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def leave(self) -> bool:
        """Whether its operator lets a call run twice."""
        return self.fields.get("retry") == "safe"

    @property
    def deadline(self) -> float:
        """Seconds from a call's acceptance to its answer."""
        return float(self.fields.get("request_timeout", 10.0))

    def environment(self, home: Path, run: str) -> dict[str, str]:
        """What its recorder finds in its environment."""
        return {
            "RECORDER_LOG": str(home / "backend.jsonl"),
            "RECORDER_TOOL": self.name,
            "RECORDER_CONTROL": str(home / f"{self.name}.control"),
            "RECORDER_START_DELAY": str(self.start_delay),
            "CHAOS_RUN": run,
        }

    def entry(self, home: Path, run: str, port: int | None, known: frozenset[str]) -> dict[str, Any]:
        """Its entry in the file, with the keys that are known."""
        entry: dict[str, Any] = {"request_timeout": self.deadline, "idle_timeout": 300.0}
        entry |= {name: value for name, value in self.fields.items() if name in known}
        if port is not None:
            return {"url": f"http://127.0.0.1:{port}/mcp", **entry}
        command, *args = server_command("recorder", "--era", self.era)
        return {"command": command, "args": args, "env": self.environment(home, run), **entry}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A cluster to be started. ``proxied`` and ``skewed`` name processes (``web0``, ``worker1``).

    ``source`` is the tree that they are started from; ``also`` others that some are started from later
    (:meth:`tests.chaos.cluster.Cluster.move`), which must know what the file says as well.

    ``namespaces`` puts processes into a network of their own. ``settings`` are further sections of the file.
    """

    tools: tuple[ToolPlan, ...]
    webs: int = 2
    workers: int = 2
    slots: int = 64
    durability: str = "everysec"
    proxied: frozenset[str] = frozenset()
    skewed: frozenset[str] = frozenset()
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    supervised: bool = True
    source: Path = SOURCE
    also: tuple[Path, ...] = ()

    def config(self, home: Path, run: str, ports: Mapping[str, int]) -> dict[str, Any]:
        """The file's content; ``ports`` are those of the HTTP backends."""
        base: dict[str, Any] = {
            "logging": {"format": "json", "level": "debug"},
            "identity": {"resolver": "header"},
            "tenants": {"listed": list(TENANTS)},
            "worker": {"concurrency": self.slots, "drain_timeout": 15.0},
            "redis": {"socket_timeout": 2.0},
            "discovery": {"ttl": 3600.0},
            "web": {
                "allowed_hosts": [space.own_address for space in self.namespaces.values()],
                "trusted_proxies": [
                    "127.0.0.1",
                    *(space.outer_address for space in self.namespaces.values()),
                ],
            },
            "audit": {
                "chain_key": AUDIT_KEY,
                "sinks": [{"type": "file", "options": {"path": str(home / AUDIT_FILE)}}],
            },
        }
        for section, values in self.settings.items():
            base[section] = {**base.get(section, {}), **values}
        known = frozenset.intersection(*map(entry_fields, (self.source, *self.also)))
        base["tools"] = {tool.name: tool.entry(home, run, ports.get(tool.name), known) for tool in self.tools}
        return base


@cache
def entry_fields(source: Path) -> frozenset[str]:
    """The keys that a tool's entry may have in a tree."""
    program = "from common.settings.entry import ENTRY_KEYS; print(*ENTRY_KEYS)"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=source,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return frozenset(found.stdout.split())


def environment(
    home: Path, run: str, *, redis: str, skew: Path | None, source: Path = SOURCE
) -> dict[str, str]:
    """The environment of a web process or a worker of the tree ``source``."""
    left_out = ("CANALGATE_", "CHAOS_", "PYTHONDONTWRITEBYTECODE")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    path = [str(source)] if skew is None else [str(SKEW), str(source)]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "CANALGATE_CONFIG": str(home / "canalgate.yaml"),
        "CANALGATE_STATE_DIR": str(home / "state"),
        "CANALGATE_REDIS__URL": redis,
        "CHAOS_RUN": run,
        **({} if skew is None else {"SKEW_FILE": str(skew)}),
    }


def web_command(host: str, port: int) -> list[str]:
    """gunicorn with one worker, as ``canalgate web`` runs it."""
    return [
        sys.executable, "-m", "gunicorn", "--worker-class", "gateway_web.gunicorn_worker.Worker",
        "--workers", "1", "--worker-connections", "2000", "--keep-alive", "75", "--graceful-timeout", "15",
        "--no-control-socket", "--bind", f"{host}:{port}", "gateway_web.wsgi:app",
    ]  # fmt: skip


def worker_command(name: str) -> list[str]:
    """celery, as ``canalgate worker`` runs it."""
    return [
        sys.executable, "-m", "celery", "--app", "gateway_worker.app", "--quiet",
        "worker", "--without-gossip", "--without-mingle", "--hostname", f"{name}@chaos",
    ]  # fmt: skip
