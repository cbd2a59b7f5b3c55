"""One gateway and one set of backends for all interoperability tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio
import pytest
from mcp import StdioServerParameters

from tests.interop import client_py
from tests.interop.backends import Backend, Json, all_backends
from tests.interop.install import InteropPaths, NodeUnavailableError, install_interop
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
def backends(paths: InteropPaths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Backend]:
    """The backends by tool id."""
    return all_backends(paths, tmp_path_factory.mktemp("interop"))


@pytest.fixture(scope="session")
def gateway(
    backends: dict[str, Backend], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """A gateway that has all backends as tools."""
    tools = {tool_id: backend.as_tool() for tool_id, backend in backends.items()}
    with running_gateway(tools, directory=tmp_path_factory.mktemp("gw")) as running:
        yield running


@pytest.fixture(scope="session")
def own_lists(backends: dict[str, Backend]) -> dict[str, list[Json]]:
    """What each backend lists when it is asked without a gateway, sorted by name."""

    async def listed(backend: Backend) -> list[Json]:
        parameters = StdioServerParameters(command=backend.command, args=backend.args, env=backend.env)
        played = await client_py.play(parameters, [], "auto")
        return sorted(played["tools"], key=lambda tool: str(tool["name"]))

    async def all_lists() -> dict[str, list[Json]]:
        return {tool_id: await listed(backend) for tool_id, backend in backends.items()}

    return anyio.run(all_lists)
