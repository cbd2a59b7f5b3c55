"""What each client made of each backend: through the gateway, and straight at the same backend.

A client plays everything it does with a backend as one script, once; the tests look at the parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.fixture_process import wait_for_answer
from tests.interop.backends import (
    CANCELLED,
    FIXTURES,
    Backend,
    Era,
    everything_script,
    fixture_script,
)
from tests.interop.clients import CLIENTS, Players
from tests.interop.install import InteropPaths
from tests.interop.steps import SCENARIOS, Json, Script, Step
from tests.support.servers.gateway import RunningGateway
from tests.support.servers.process import free_port, running

OFFERED: dict[str, tuple[str, ...]] = {
    "everything": tuple(scenario for scenario in SCENARIOS if scenario != "cancel"),
    **dict.fromkeys(("filesystem", "memory", "time", "git"), ("list", "call")),
    **dict.fromkeys(FIXTURES, SCENARIOS),
}
"""What each backend can do. ``everything`` finishes what was cancelled, and tells nobody."""

ASKING = frozenset({"elicitation", "sampling"})
ERA_FIELDS = frozenset({"resultType", "ttlMs", "cacheScope"})
SERVER_INFO = "io.modelcontextprotocol/serverInfo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a script, by scenario; ``version`` is None where the client does not tell."""

    version: str | None
    outcomes: dict[str, list[tuple[Step, Json]]]


def cells(clients: Iterator[str] | None = None) -> list[tuple[str, str, str]]:
    """Client, backend and scenario, wherever both can do it."""
    return [
        (client, backend, scenario)
        for client in clients or CLIENTS
        for backend, offered in OFFERED.items()
        for scenario in offered
        if scenario in CLIENTS[client].can
    ]


def era_of(client: str) -> Era:
    """The era that a client speaks with the gateway."""
    return "modern" if CLIENTS[client].modern else "legacy"


def compared(client: str, backend: str, scenario: str) -> bool:
    """Whether the client can do the very same straight at the backend.

    In which way our fixture asks depends on its era, so only a client of that era is asked both ways.
    """
    if backend in FIXTURES:
        return scenario not in ASKING or FIXTURES[backend] == era_of(client)
    return backend == "everything"


def bare(outcome: Json) -> Json:
    """An outcome less what only the modern era writes into a result."""
    result = {name: value for name, value in outcome.get("result", {}).items() if name not in ERA_FIELDS}
    meta = {name: value for name, value in result.pop("_meta", {}).items() if name != SERVER_INFO}
    return {**outcome, "result": {**result, **({"_meta": meta} if meta else {})}}


def first_of_each(steps: list[Step]) -> list[Step]:
    """Of the steps that do the same the first."""
    found: dict[str, Step] = {}
    for step in steps:
        found.setdefault(step.do, step)
    return list(found.values())


@dataclass(slots=True, kw_only=True)
class Matrix:
    """Everything that runs, and what was played so far."""

    gateway: RunningGateway
    backends: dict[str, Backend]
    players: Players
    fixture: str
    everything: str
    _played: dict[tuple[str, str], Played] = field(default_factory=dict)

    def through(self, client: str, backend: str) -> Played:
        """What came of everything this client does with this backend."""
        self.gateway.process.require_alive()
        script = self.backends[backend].script(client)
        if not self.backends[backend].twin:
            return self._play(client, self._url(client, backend), script)
        cancel = {"cancel": script.pop("cancel")}
        played = self._play(client, self._url(client, backend), script)
        if "cancel" not in CLIENTS[client].can:
            return played
        apart = self._play(client, self._url(client, backend + CANCELLED), cancel)
        return Played(version=played.version, outcomes={**played.outcomes, **apart.outcomes})

    def _url(self, client: str, tool: str) -> str:
        return CLIENTS[client].url(self.gateway.tool_url(tool))

    def direct(self, client: str, backend: str) -> Played:
        """The same without a gateway, in the client's own era."""
        if backend == "everything":
            return self._play(client, self.everything, everything_script(client))
        return self._play(client, self.fixture, fixture_script(era_of(client), client))

    def _play(self, client: str, url: str, script: Script) -> Played:
        if (client, url) not in self._played:
            wanted = {name: steps for name, steps in script.items() if name in CLIENTS[client].can}
            if CLIENTS[client].brief:
                wanted = {name: first_of_each(steps) for name, steps in wanted.items()}
            told = self.players.play(client, url, [step for steps in wanted.values() for step in steps])
            left = iter(told["steps"])
            outcomes = {name: [(step, next(left)) for step in steps] for name, steps in wanted.items()}
            self._played[client, url] = Played(version=told["version"], outcomes=outcomes)
        return self._played[client, url]


@contextlib.contextmanager
def running_everything(paths: InteropPaths, log: Path) -> Iterator[str]:
    """Run the reference server over Streamable HTTP and yield its URL."""
    port = free_port()
    command = [paths.node, str(paths.everything), "streamableHttp"]
    with running(command, log=log, env={"PORT": str(port)}) as process:
        wait_for_answer(process, f"http://localhost:{port}/mcp")
        yield f"http://localhost:{port}/mcp"
