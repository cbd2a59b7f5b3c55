"""One gateway, one set of backends and one of each client for all interoperability tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from mcp import StdioServerParameters

from tests.conformance.fixture_process import running_fixture
from tests.interop import client_py
from tests.interop.backends import ERAS, Backend, Era, all_backends, tools_of
from tests.interop.clients import Players, all_players
from tests.interop.install import InteropPaths, NodeUnavailableError, install_interop
from tests.interop.matrix import Matrix, running_everything
from tests.interop.steps import ANSWERS, Json
from tests.support.servers.gateway import RunningGateway, running_gateway


@pytest.fixture(scope="session")
def paths() -> InteropPaths:
    """The Node programs; without npm the tests are skipped on a laptop and fail where ``CI=true``."""
    try:
        return install_interop()
    except NodeUnavailableError as error:
        if os.environ.get("CI", "").lower() == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything of this session is written."""
    return tmp_path_factory.mktemp("interop")


@pytest.fixture(scope="session")
def players(paths: InteropPaths, scratch: Path) -> Iterator[Players]:
    """The clients."""
    with all_players(paths, scratch) as found:
        yield found


@pytest.fixture(scope="session")
def fixture_urls(scratch: Path) -> Iterator[dict[Era, str]]:
    """Our fixture over HTTP, of each era."""
    with ExitStack() as stack:
        yield {
            era: stack.enter_context(running_fixture(log=scratch / f"fixture-{era}.log", era=era))
            for era in ERAS
        }


@pytest.fixture(scope="session")
def backends(paths: InteropPaths, scratch: Path, fixture_urls: dict[Era, str]) -> dict[str, Backend]:
    """The backends by tool id."""
    return all_backends(paths, scratch, fixture_urls)


@pytest.fixture(scope="session")
def gateway(
    backends: dict[str, Backend], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway that has all backends as tools."""
    with running_gateway(tools_of(backends), directory=tmp_path_factory.mktemp("gw")) as running:
        yield running


@pytest.fixture(scope="session")
def matrix(
    gateway: RunningGateway,
    backends: dict[str, Backend],
    players: Players,
    paths: InteropPaths,
    scratch: Path,
) -> Iterator[Matrix]:
    """Every client with every backend, through the gateway and, where that can be, straight."""
    with (
        running_fixture(log=scratch / "fixture-both.log") as fixture,
        running_everything(paths, scratch / "everything.log") as everything,
    ):
        yield Matrix(
            gateway=gateway, backends=backends, players=players, fixture=fixture, everything=everything
        )


@pytest.fixture(scope="session")
def own_lists(backends: dict[str, Backend]) -> dict[str, list[Json]]:
    """What each backend lists when a client that can be asked for everything asks it without a gateway."""
    script: Json = {"steps": [{"do": "tools"}], "answers": {**ANSWERS, client_py.ROOTS: {"roots": []}}}

    async def listed(backend: Backend) -> list[Json]:
        target: str | StdioServerParameters = backend.url
        if not target:
            tool = backend.as_tool()
            target = StdioServerParameters.model_validate(tool)
        played = await client_py.play(target, script, "auto")
        tools: list[Json] = played["steps"][0]["result"]["tools"]
        return tools

    async def all_lists() -> dict[str, list[Json]]:
        return {tool_id: await listed(backend) for tool_id, backend in backends.items()}

    return anyio.run(all_lists)
