"""What backends ask during a call reaches the client that made it, in every pairing of eras, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    Root,
    TextContent,
)

from tests.support.aio import on_loop
from tests.support.servers.gateway import RunningGateway, running_gateway
from tests.support.servers.process import server_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MODES = ("legacy", "2026-07-28")
TOOLS = ("legacy", "modern")


def inquirer(era: str, **fields: Any) -> dict[str, Any]:
    """An entry of the file."""
    command, *args = server_command("inquirer", era)
    return {"command": command, "args": args, **fields}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Backends of each era; two web processes, so answers come to either."""
    tools = {
        "legacy": inquirer("legacy"),
        "modern": inquirer("modern"),
        "apart": inquirer("legacy", affinity="mcp_session"),
        "hasty": inquirer("legacy", input_timeout=0.5),
    }
    directory = tmp_path_factory.mktemp("input")
    with running_gateway(tools, directory=directory, settings={"web": {"processes": 2}}) as found:
        yield found


def client(gateway: RunningGateway, tool: str, mode: str, name: str = "me", **without: Any) -> Client:
    """A client that answers whatever it is asked with its name."""

    async def elicit(_context: Any, _params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"answer": name})

    async def sample(_context: Any, _params: Any) -> CreateMessageResult:
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text=name), model="m")

    async def roots(_context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=f"file:///{name}")])

    callbacks: dict[str, Any] = {
        "elicitation_callback": elicit,
        "sampling_callback": sample,
        "list_roots_callback": roots,
    }
    return Client(gateway.tool_url(tool), mode=mode, cache=None, **{**callbacks, **without})


async def told(reached: Client, question: str, who: str = "me") -> dict[str, Any]:
    """What the backend was told during one call."""
    result = await reached.call_tool(question, {"who": who})
    found = orjson.loads(result.content[0].text)
    assert found["who"] == who
    answers: dict[str, Any] = found["told"]
    return answers


def said(question: str, answers: dict[str, Any]) -> str:
    """The name in an answer."""
    answer = answers[question]
    if question == "elicitation":
        return str(answer["content"]["answer"])
    return str(
        answer["content"]["text"] if question == "sampling" else answer["roots"][0]["uri"].rpartition("/")[2]
    )


@pytest.mark.parametrize("question", ["elicitation", "sampling", "roots", "both", "nothing"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("mode", MODES)
def test_the_client_is_asked_whatever_either_speaks(
    gateway: RunningGateway, mode: str, tool: str, question: str
) -> None:
    """All four cells, one question, two at once, none."""

    @on_loop
    async def scenario() -> None:
        async with client(gateway, tool, mode) as reached:
            answers = await told(reached, question)
        wanted = {"both": {"elicitation", "sampling"}, "nothing": set()}.get(question, {question})
        assert answers.keys() == wanted
        assert {said(name, answers) for name in wanted} <= {"me"}

    scenario()


@pytest.mark.filterwarnings("ignore:The roots capability is deprecated")
def test_a_backend_that_was_given_roots_hears_that_they_are_others_now(gateway: RunningGateway) -> None:
    """And asks for them, outside any call; they come by the client's standing stream."""

    @on_loop
    async def scenario() -> None:
        now = "old"

        async def roots(_context: Any) -> ListRootsResult:
            return ListRootsResult(roots=[Root(uri=f"file:///{now}")])

        async with client(gateway, "apart", "legacy", list_roots_callback=roots) as reached:
            assert said("roots", await told(reached, "roots")) == "old"
            now = "new"
            known: set[str] = set()
            while not known:  # its standing stream may not be there yet
                await reached.session.send_roots_list_changed()
                found = (await told(reached, "known"))["roots"]
                known = {answer["roots"][0]["uri"] for answer in found if "roots" in answer}
            assert known == {"file:///new"}

    scenario()


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("mode", MODES)
def test_nobody_is_asked_what_it_did_not_declare(gateway: RunningGateway, mode: str, tool: str) -> None:
    """The backend is refused, or refuses; the client sees no question."""

    @on_loop
    async def scenario() -> None:
        async with client(gateway, tool, mode, sampling_callback=None) as reached:
            assert said("elicitation", await told(reached, "elicitation")) == "me"
            try:
                answers = await told(reached, "sampling")
            except MCPError:
                return
            assert "result" not in answers
            assert "error" in answers["sampling"]

    scenario()


@pytest.mark.parametrize("tool", ["legacy", "apart", "modern"])
@pytest.mark.parametrize("mode", MODES)
def test_each_client_gets_its_own_questions(gateway: RunningGateway, mode: str, tool: str) -> None:
    """Eight of them at once, on one tool session of a shared client, ask and are asked."""

    @on_loop
    async def scenario() -> None:
        async def one(name: str) -> None:
            async with client(gateway, tool, mode, name) as reached:
                for _ in range(3):
                    assert said("elicitation", await told(reached, "elicitation", name)) == name

        # That a backend asks is known from its first question on, or from its affinity.
        await one("first")
        await asyncio.gather(*(one(f"client-{number}") for number in range(8)))

    scenario()


def test_a_call_that_asks_does_not_wait_for_long_ones_of_its_own_session(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """A request of the backend is certain as long as all calls there are of one MCP session."""
    gate = tmp_path / "gate"

    @on_loop
    async def scenario() -> None:
        async with client(gateway, "legacy", "legacy") as reached:
            held = asyncio.create_task(reached.call_tool("hold", {"path": str(gate)}))
            assert said("elicitation", await told(reached, "elicitation")) == "me"
            assert not held.done()
            gate.touch()
            await held

    scenario()


def test_a_client_that_does_not_answer_is_waited_for_so_long(gateway: RunningGateway) -> None:
    """After ``input_timeout`` the backend is told so, and goes on; the session is free for the next one."""

    @on_loop
    async def scenario() -> None:
        never = asyncio.Event()

        async def silent(_context: Any, _params: Any) -> ElicitResult:
            await never.wait()
            raise AssertionError

        async with client(gateway, "hasty", "legacy", elicitation_callback=silent) as reached:  # type: ignore[arg-type]
            answers = await told(reached, "elicitation")
            assert "input_timeout" in answers["elicitation"]["error"]["message"]
            assert await told(reached, "nothing") == {}

    scenario()


def test_a_modern_client_that_comes_too_late_learns_how_it_ended(gateway: RunningGateway) -> None:
    """The backend was told that nobody answered, and its answer is kept."""

    @on_loop
    async def scenario() -> None:
        async with client(gateway, "hasty", "2026-07-28") as reached:
            asked = await reached.session.call_tool("elicitation", {"who": "me"}, allow_input_required=True)
            names = set(asked.input_requests)
            while True:
                # As long as the call waits, it asks again.
                found = await reached.session.call_tool(
                    "elicitation",
                    {"who": "me"},
                    input_responses={},
                    request_state=asked.request_state,
                    allow_input_required=True,
                )
                if getattr(found, "input_requests", None) is None:
                    break
                assert set(found.input_requests) == names
            assert "input_timeout" in found.content[0].text

    scenario()


def test_a_stranger_cannot_answer(gateway: RunningGateway) -> None:
    """A request state is of its call alone: with other params, or changed, it is refused."""

    @on_loop
    async def scenario() -> None:
        async with client(gateway, "legacy", "2026-07-28") as reached:
            asked = await reached.session.call_tool("elicitation", {"who": "me"}, allow_input_required=True)
            state = asked.request_state
            assert state.startswith("cg1.")
            responses = {
                name: {"action": "accept", "content": {"answer": "x"}} for name in asked.input_requests
            }
            flipped = state[:-2] + ("AA" if state[-2:] != "AA" else "BB")
            for arguments, given in (
                ({"who": "you"}, state),
                ({"who": "me"}, flipped),
                ({"who": "me"}, "cg1."),
            ):
                with pytest.raises(MCPError, match="requestState"):
                    await reached.session.call_tool(
                        "elicitation", arguments, input_responses=responses, request_state=given
                    )
            again = await reached.session.call_tool(
                "elicitation",
                {"who": "me"},
                request_state=state,
                input_responses={},
                allow_input_required=True,
            )
            assert again.input_requests.keys() == asked.input_requests.keys()
            done = await reached.session.call_tool(
                "elicitation", {"who": "me"}, input_responses=responses, request_state=again.request_state
            )
            assert orjson.loads(done.content[0].text)["told"]["elicitation"]["content"] == {"answer": "x"}
            # Whoever lost the answer may ask for it again: it is the same, and the backend hears nothing of it.
            responses = {name: {"action": "accept", "content": {"answer": "other"}} for name in responses}
            repeated = await reached.session.call_tool(
                "elicitation", {"who": "me"}, input_responses=responses, request_state=state
            )
            assert repeated.content[0].text == done.content[0].text

    scenario()
