"""Real clients of both eras reach real backends of both eras through one gateway."""

from __future__ import annotations

import pytest

from tests.interop.backends import BACKENDS, CANCELLED, FIXTURES, Backend, tools_of
from tests.interop.clients import CLIENTS, Players
from tests.interop.matrix import OFFERED, Matrix, bare, cells, compared, era_of
from tests.interop.steps import Json, Step, call
from tests.support.servers.gateway import RunningGateway

# The first test pays for npm, the gateway and the start of every backend.
pytestmark = [pytest.mark.interop, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("client", "backend", "scenario"), cells())
def test_client_works_with_backend(client: str, backend: str, scenario: str, matrix: Matrix) -> None:
    """The client gets its revision, and of each step what the backend has for it."""
    played = matrix.through(client, backend)

    assert played.version in {None, CLIENTS[client].revision}
    assert played.outcomes[scenario]
    for step, outcome in played.outcomes[scenario]:
        step.check(outcome)


@pytest.mark.parametrize(("client", "backend", "scenario"), [cell for cell in cells() if compared(*cell)])
def test_nothing_is_rewritten(client: str, backend: str, scenario: str, matrix: Matrix) -> None:
    """Results, progress, and what the client is asked are to the letter what it gets without a gateway."""
    straight = CLIENTS[client].direct or client
    through = matrix.through(client, backend).outcomes[scenario]
    direct = matrix.direct(straight, backend).outcomes[scenario]

    same_era = FIXTURES.get(backend, "legacy") == era_of(client)
    assert len(through) == len(direct) > 0
    for (step, found), (_, wanted) in zip(through, direct, strict=True):
        if scenario == "list":
            shown, given = offered(found, wanted), wanted["result"]["tools"]
            if not same_era:
                shown, given = (
                    [without_tasks(tool) for tool in shown],
                    [without_tasks(tool) for tool in given],
                )
            assert shown == given, step
        elif same_era:
            assert found == wanted, step
        else:
            assert bare(found) == bare(wanted), step


def without_tasks(tool: Json) -> Json:
    """A tool less ``execution``, which the modern era has not got: there the TypeScript SDK does not show it."""
    return {name: value for name, value in tool.items() if name != "execution"}


def offered(found: Json, wanted: Json) -> list[Json]:
    """The listed tools, less those a legacy backend has only for clients that can be asked for more (0011)."""
    names = {tool["name"] for tool in wanted["result"]["tools"]}
    return [tool for tool in found["result"]["tools"] if tool["name"] in names]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_lists_are_the_backend_s_own(
    client: str, backend: str, matrix: Matrix, own_lists: dict[str, list[Json]]
) -> None:
    """Every tool is listed, in the backend's order, with the schema that the backend gives it."""
    [(_, outcome)] = matrix.through(client, backend).outcomes["list"]

    listed = [(tool["name"], tool["inputSchema"]) for tool in outcome["result"]["tools"]]
    assert listed == [(tool["name"], tool["inputSchema"]) for tool in own_lists[backend]]


@pytest.mark.parametrize("client", ["python-auto", "ts-v1", "ts-v1-sse", "ts-v1-ws"])
def test_aggregate_lists_all_backends(
    client: str,
    players: Players,
    gateway: RunningGateway,
    backends: dict[str, Backend],
    own_lists: dict[str, list[Json]],
) -> None:
    """``/mcp``, ``/sse`` and ``/ws`` list the tools of all backends under prefixed names and route by the prefix."""
    steps = [Step(do="tools"), call("everything__echo", "Echo: all", message="all")]

    gateway.process.require_alive()
    listed, called = players.play(client, CLIENTS[client].url(f"{gateway.url}/mcp"), steps)["steps"]

    expected = {
        f"{tool_id}__{tool['name']}": tool["inputSchema"]
        for tool_id in tools_of(backends)
        for tool in own_lists[tool_id.removesuffix(CANCELLED)]
    }
    assert {tool["name"]: tool["inputSchema"] for tool in listed["result"]["tools"]} == expected
    steps[1].check(called)


def test_every_backend_is_played_as_far_as_it_goes(matrix: Matrix) -> None:
    """What the matrix expects of a backend is what its script does."""
    for name, backend in matrix.backends.items():
        assert tuple(backend.script("any")) == OFFERED[name]
