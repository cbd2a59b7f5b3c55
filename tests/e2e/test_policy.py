"""Policy in a whole gateway: rules, CEL and an evaluator of one's own, as a client of the SDK finds them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from tests.support.mcp import modern
from tests.support.servers.gateway import RunningGateway, gateway_command, running_gateway
from tests.support.servers.process import server_command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ECHO = {"command": server_command("echo")[0], "args": server_command("echo")[1:]}
SETTINGS = {
    "identity": {"resolver": "header"},
    "tenants": {"allow_unlisted": True},
    "policy": {
        "rules": [
            {"effect": "deny", "tenants": ["small"], "tools": ["hidden"]},
            {"effect": "deny", "tenants": ["small"], "mcp_tools": ["fail", "slow*"]},
        ],
        "tools": {"seen": [{"effect": "allow", "mcp_tools": ["*"]}]},
        "evaluators": [
            {"id": "short", "type": "cel", "expression": "!has(arguments.text) || size(arguments.text) < 5"},
            {
                "id": "payments",
                "type": "custom",
                "implementation": "examples.policy_evaluator:SmallPayments",
                "options": {"limit": 100},
            },
            {
                "id": "hangs",
                "type": "custom",
                "implementation": "tests.e2e.test_policy:Hanging",
                "timeout": 0.3,
                "max_in_flight": 4,
            },
        ],
        "evaluator": "short",
        "tenants": {"bank": "payments", "stuck": "hangs"},
    },
}


class Hanging:
    """Blocks its thread, and no greenlet of gevent's goes on in it."""

    def __init__(self, _options: object) -> None:
        pass

    def evaluate(self, _question: object) -> None:
        """Never answers in time."""
        from gevent import monkey

        monkey.get_original("time", "sleep")(20)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    tools = {"seen": ECHO, "hidden": ECHO}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where the evaluators are
        with running_gateway(tools, directory=tmp_path_factory.mktemp("p"), settings=SETTINGS) as found:
            yield found


def who(tenant: str) -> dict[str, str]:
    return {"X-Tenant-Id": tenant, "X-Client-Id": "c"}


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_a_client_of_the_sdk_sees_what_it_may_use(gateway: RunningGateway, mode: str) -> None:
    """Filtered lists; what is denied is an error of its own kind, what is hidden one of what is not there."""

    async def use() -> None:
        async with httpx2.AsyncClient(headers=who("small")) as http:
            url = f"{gateway.url}/mcp"
            async with Client(streamable_http_client(url, http_client=http), mode=mode) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                assert "seen__echo" in names
                assert not {"seen__fail", "hidden__echo"} & names
                assert not (await client.list_prompts()).prompts
                assert (await client.call_tool("seen__echo", {"text": "abcd"})).content[0].text == "abcd"  # type: ignore[union-attr]
                for name, arguments, code in (
                    ("seen__fail", {}, "POLICY_DENIED"),
                    ("seen__echo", {"text": "abcde"}, "POLICY_DENIED"),
                    ("hidden__echo", {"text": "a"}, "TOOL_NOT_FOUND"),
                    ("absent__echo", {"text": "a"}, "TOOL_NOT_FOUND"),
                ):
                    with pytest.raises(MCPError) as caught:
                        await client.call_tool(name, arguments)
                    assert caught.value.error.data["code"] == code

    asyncio.run(use())


def test_others_see_all(gateway: RunningGateway) -> None:
    """The rules are about one tenant; what the tool's own list allows holds for all."""
    client = modern(f"{gateway.url}/mcp", **who("big"))
    names = {tool["name"] for tool in client.post("tools/list").json()["result"]["tools"]}
    assert {"seen__fail", "hidden__echo"} <= names
    prompts = [prompt["name"] for prompt in client.post("prompts/list").json()["result"]["prompts"]]
    assert all(name.startswith("hidden__") for name in prompts)


def test_an_evaluator_of_one_s_own_decides(gateway: RunningGateway) -> None:
    """The example, for the tenant that has it."""
    client = modern(gateway.tool_url("seen"), **who("bank"))
    assert client.text("echo", {"text": "longer than five", "amount": 100}) == "longer than five"
    answer = client.post("tools/call", {"name": "echo", "arguments": {"text": "a", "amount": 101}}).json()
    assert (
        answer["error"]["message"]
        == "policy denies this call: amounts above 100 need the scope payments:large"
    )


def test_an_evaluator_that_hangs_holds_up_nobody_else(gateway: RunningGateway) -> None:
    """Its tenant's calls are denied in time, all of them; the others' are answered meanwhile."""
    stuck, other = (modern(gateway.tool_url("seen"), **who(tenant)) for tenant in ("stuck", "big"))

    def denied(_: int) -> str:
        answer = stuck.post("tools/call", {"name": "echo", "arguments": {"text": "a"}}).json()
        return str(answer["error"]["data"]["reason"])

    with ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        answers = pool.map(denied, range(16))
        for _ in range(5):
            assert other.text("echo", {"text": "a"}) == "a"
        assert time.monotonic() - began < 5
        assert set(answers) == {"evaluator_error"}


def test_a_policy_that_does_not_compile_starts_nothing(tmp_path: Path) -> None:
    """And says where it is wrong."""
    config = tmp_path / "canalgate.yaml"
    config.write_text(
        "policy: {evaluators: [{id: e, type: cel, expression: 'tenant == ('}], evaluator: e}\n",
        encoding="utf-8",
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("CANALGATE_")}
    env["CANALGATE_STATE_DIR"] = str(tmp_path / "s")
    command = [*gateway_command(), "up", "--config", str(config), "--port", "0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2, done.stderr
    assert "line 1, column 12" in done.stderr
