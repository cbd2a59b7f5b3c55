"""One test for each published weakness of an MCP product, or of what such products stand on.

The names are those of the advisories. Each test does to this gateway what was done to the other product; where a whole
table does so elsewhere, the docstring names it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from common.domain.egress import STRICT, EgressRules
from common.domain.errors import InvalidRequest, SessionNotFound
from common.domain.ids import ToolId
from common.domain.tool import HttpTransport, StdioTransport, Tool
from common.processes import ProcessGuard
from common.registry.registry import Registry
from common.store.client import Client
from common.store.keys import Keys
from gateway_worker.egress.http_request import Fields, Origin, request_bytes
from gateway_worker.egress.link import LinkLost
from gateway_worker.egress.process import child_environment
from tests.e2e.test_raw_requests import CASES as RAW_REQUESTS
from tests.security.test_ssrf import by_link
from tests.support.connects import connects
from tests.web.harness import META_FIELDS, Serve, request

pytestmark = pytest.mark.security

ROOT = Path(__file__).parents[2]
PRODUCT = [
    path for part in ("common", "gateway_web", "gateway_worker") for path in (ROOT / part).rglob("*.py")
]
EVIL = "x; touch /tmp/owned $(touch /tmp/owned) `touch /tmp/owned`"
KEY = "k" * 40
KEYED = {
    "identity": {"resolver": "api_key", "api_keys": [{"key": KEY, "tenant": "acme", "client": "ci"}]},
    "tenants": {"allow_unlisted": True},
}


def stdio(command: str, *args: str, **env: str) -> Tool:
    return Tool(id=ToolId("t"), transport=StdioTransport(command=command, args=args, env=env))


def calls_of(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


# -- commands ---------------------------------------------------------------------------------------------


def test_cve_2025_6514_nothing_that_a_server_says_reaches_a_shell() -> None:
    """mcp-remote: an authorization endpoint was opened by a shell. Nothing of ours starts one, nor opens a browser."""
    for path in PRODUCT:
        for call in calls_of(path):
            name = ast.unparse(call.func)
            assert name not in {"os.system", "os.popen", "eval", "exec", "webbrowser.open"}, path
            assert not name.endswith(("subprocess_shell", "getoutput", "startfile")), path
            if name == "get_completion_script":  # writes a script for a shell, and runs none
                continue
            shell = next((word.value for word in call.keywords if word.arg == "shell"), None)
            assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), path


def test_cve_2025_49596_who_is_nobody_starts_no_command(serve: Serve) -> None:
    """MCP Inspector: its proxy started what anybody asked for. No route takes a command; what looks so is not there."""
    web = serve(**KEYED)
    for path in (
        "/stdio?command=id",
        "/sse?transportType=stdio&command=id",
        "/api/servers",
        "/tools",
        "/admin/tools",
    ):
        for answer in (web.http.get(path), web.post({"command": "id"}, path)):
            assert answer.status_code in {401, 404, 405, 406}, path
    names = {entry.id for entry in web.gateway.registry.entries()}
    assert web.post(request("tools/add", {"command": "id"})).status_code == 401
    assert {entry.id for entry in web.gateway.registry.entries()} == names


@pytest.mark.parametrize("advisory", ["CVE-2026-42271", "CVE-2026-30615", "CVE-2026-30617", "CVE-2026-30623"])
def test_a_command_given_at_run_time_is_not_run(client: Client, keys: Keys, advisory: str) -> None:
    """LiteLLM's "test connection", and OX Security's list: command, arguments and environment by an interface."""
    registry = Registry(client, keys)
    for tool in (stdio("sh", "-c", EVIL), stdio("npx", "-y", "evil"), stdio("python3", "-c", "1")):
        with pytest.raises(InvalidRequest):
            registry.put(tool)
    registry.put(Tool(id=ToolId("t"), transport=HttpTransport(url="https://h.example/")))
    with pytest.raises(InvalidRequest):
        registry.update(ToolId("t"), lambda _: stdio("sh"), change_transport=True)
    assert isinstance(registry.get(ToolId("t")).tool.transport, HttpTransport)


def test_cve_2026_55887_what_somebody_else_wrote_is_no_option() -> None:
    """Docker's gateway: metadata of an image became arguments of its launch. Words are whole, none is an option."""
    rules = EgressRules(allowed_commands=("docker run --rm good",))
    rules.check_runtime(stdio("docker", "run", "--rm", "good"))
    for words in (
        ("--privileged",),
        ("docker", "run", "--privileged", "good"),
        ("docker", "run", "--rm", "--privileged", "good"),
        ("docker run --rm good",),
        ("docker", "run", "--rm", "good --privileged"),
    ):
        with pytest.raises(InvalidRequest):
            rules.check_runtime(stdio(*words))


def test_a_child_sees_no_secret_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """S6, read by a real child from its own environment."""
    for name in ("CANALGATE_REDIS__URL", "AWS_SECRET_ACCESS_KEY", "VAULT_TOKEN", "CANARY"):
        monkeypatch.setenv(name, "s3cr3t-canary")
    look = "import os; print(open('/proc/self/environ').read() + str(dict(os.environ)))"
    with ProcessGuard(grace=1):
        done = subprocess.run(
            [sys.executable, "-c", look],
            env=child_environment({"DECLARED": "1"}),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    assert "DECLARED" in done.stdout
    assert "s3cr3t-canary" not in done.stdout


# -- requests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["a/?x", "localhost/mcp", "localhost?", "localhost#", "a@localhost", "a b", ""]
)
def test_cve_2026_48710_a_host_bends_no_path(serve: Serve, host: str) -> None:
    """Starlette's "BadHost": 400 before anything is decided. The whole table: tests/web/test_guards.py."""
    web = serve(**KEYED)
    answer = web.post(request("ping"), headers={"Host": host or " ", "X-Api-Key": KEY})
    assert answer.status_code == 400


INTERNAL = [
    "X-Canalgate-Internal", "X-Forwarded-User", "X-Remote-User", "Remote-User", "X-Auth-Request-User",
    "X-Mcp-Authorized", "X-Mcp-Servername", "X-Mcp-Method", "X-Tenant-Id", "X-Client-Id", "X-Original-Url",
    "X-Rewrite-Url", "X-Ssl-Client-S-Dn", "Canalgate-Tls-Subject", "Ssl-Client-Verify",
]  # fmt: skip


def test_ghsa_g53w_w6mj_hrpp_no_header_stands_for_a_credential(serve: Serve) -> None:
    """Kuadrant's gateway: an internal header skipped the check of tokens. None does here, alone or all together."""
    web = serve(**KEYED)
    for headers in [{name: "acme"} for name in INTERNAL] + [dict.fromkeys(INTERNAL, "acme")]:
        assert web.post(request("ping"), headers=headers).status_code == 401


TWICE = [
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo__add","name":"slow__wait"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"echo__add"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n\\u0061me":"echo__add","name":"slow__wait"}}',
]


@pytest.mark.parametrize("raw", TWICE)
def test_ghsa_4gph_2hhr_5mwg_a_name_given_twice_is_refused(serve: Serve, raw: bytes) -> None:
    """Envoy AI Gateway: one tool authorised, another called. Two names for one place are no request at all."""
    answer = serve().post(raw)
    assert answer.status_code == 400
    assert b"result" not in answer.data


@pytest.mark.parametrize("name", ["Name", "NAME", "naMe", "param\u017f"])
def test_cve_2026_27896_another_spelling_of_a_name_is_not_taken_for_it(serve: Serve, name: str) -> None:
    """MCP's Go SDK read ``Name`` as ``name``. With both, what a backend would read first is not what was authorised.

    ``make fuzz`` compares, for 20,000 requests, what was authorised with what any reader takes from what is sent.
    """
    web = serve()
    params: dict[str, Any] = {name: "slow__wait", "arguments": {}, "_meta": META_FIELDS}
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "slow__wait"}
    answer = web.post(request("tools/call", params), headers=headers)
    assert answer.status_code == 400


def test_cve_2024_1135_and_6827_no_request_hides_in_another() -> None:
    """gunicorn before 22: smuggling (CVE-2024-6827). tests/e2e/test_raw_requests.py sends all of these to a gateway."""
    refused = {name for name, _, status in RAW_REQUESTS if status in {400, 501}}
    assert refused >= {
        *("length and chunks", "chunks and length", "two lengths", "a list of lengths", "another coding"),
        *(
            "chunks under a coding",
            "chunked twice",
            "a malformed chunk",
            "bare line feeds",
            "a folded header",
        ),
        *("a space before the colon", "two Hosts", "NUL in a header"),
    }


BROKEN: list[bytes] = [
    *(b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"jsonrpc":"2.0"}', b"[" * 100_000),
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"9" * 5000 + b"}",
    b'{"jsonrpc":"2.0","id":{"a":1},"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":NaN}',
]


@pytest.mark.parametrize("advisory", ["CVE-2025-53365", "CVE-2025-53366", "python-sdk-2328"])
def test_nonsense_does_not_end_the_server(serve: Serve, advisory: str) -> None:
    """MCP's Python SDK: a malformed request, or a client that went, ended it. tests/chaos has the clients that go."""
    web = serve()
    for raw in BROKEN:
        answer = web.post(raw)
        assert 400 <= answer.status_code < 500, raw[:80]
    assert web.modern("ping").status_code in {200, 404}
    assert web.http.get("/livez").status_code == 200


@pytest.mark.parametrize("advisory", ["CVE-2025-66416", "CVE-2025-66414", "CVE-2026-34742", "CVE-2025-64443"])
def test_a_page_that_rebinds_its_name_is_refused(serve: Serve, advisory: str) -> None:
    """SDKs and Docker's gateway: DNS rebinding. The attacker's name is in Host, or in Origin; both are looked at."""
    web = serve()
    assert web.post(request("ping"), headers={"Host": "evil.example"}).status_code == 421
    for origin in (
        "http://evil.example",
        "null",
        "https://localhost.evil.example",
        "http://localhost:1@evil.example",
    ):
        assert web.post(request("ping"), headers={"Origin": origin}).status_code == 403
    assert web.post(request("ping"), headers={"Origin": "http://localhost"}).status_code != 403


@pytest.mark.parametrize("advisory", ["CVE-2026-33032", "CVE-2026-32211"])
def test_no_route_is_open(serve: Serve, advisory: str) -> None:
    """nginx-ui, Azure MCP: one route without a check. Taken from the routes that there are, so none is forgotten."""
    web = serve(**KEYED)
    open_ones = {"/livez", "/readyz"}
    for rule in web.app.url_map.iter_rules():
        path = rule.rule.replace("<path:tool>", "echo")
        if path in open_ones or path.startswith("/.well-known/"):
            continue
        assert "<" not in path, f"{path}: say here what its variables are"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            if rule.websocket:
                continue
            answer = web.http.open(
                path, method=method, headers={"Accept": "application/json, text/event-stream"}
            )
            # 426: a plain GET of the WebSocket door, which says so to everybody.
            assert answer.status_code in {400, 401, 403, 415, 426}, (method, path, answer.status_code)
            assert b"result" not in answer.data


# -- sessions ---------------------------------------------------------------------------------------------


def test_cve_2026_25536_answers_are_the_askers(serve: Serve) -> None:
    """TypeScript SDK: a transport used twice gave answers to the wrong client. Equal ids, at once, in two sessions."""
    web = serve()
    sessions = [web.initialize(), web.initialize()]
    found: dict[str, set[str]] = {session: set() for session in sessions}

    def ask(session: str, tool: str) -> None:
        for _ in range(50):
            answer = web.legacy(session, "tools/list", id=1)
            found[session].add(orjson.loads(answer.data)["id"] == 1 and tool)

    threads = [threading.Thread(target=ask, args=(session, session)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {session: {session} for session in sessions}


@pytest.mark.parametrize("advisory", ["CVE-2026-33946", "CVE-2025-6515", "python-sdk-2100"])
def test_a_session_s_id_is_no_credential(serve: Serve, advisory: str) -> None:
    """Ruby SDK, oatpp-mcp, Python SDK: who had or guessed an id had the session, and its stream."""
    identity = {
        "resolver": "api_key",
        "api_keys": [{"key": key * 40, "tenant": key, "client": "c"} for key in ("a", "b")],
    }
    web = serve(identity=identity, tenants={"allow_unlisted": True})
    mine, other = {"X-Api-Key": "a" * 40}, {"X-Api-Key": "b" * 40}
    session = web.initialize(headers=mine)
    assert len(session) >= 22  # 128 bits and more
    stream = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
    assert web.http.get("/mcp", headers={**stream, **other}).status_code == 404
    assert web.http.get("/mcp", headers=stream).status_code == 401
    assert web.legacy(session, "ping", headers=other).status_code == 404
    assert web.http.delete("/mcp", headers={"Mcp-Session-Id": session, **other}).status_code == 404
    assert web.legacy(session, "ping", headers=mine).status_code == 200
    with pytest.raises(SessionNotFound):
        web.gateway.mcp_sessions.use(session, principal="another", tool=None)


# -- paths ------------------------------------------------------------------------------------------------

AROUND = [
    "..",
    "../..",
    "%2e%2e",
    "%2e%2e%2f",
    "..%2f",
    "..%5c",
    "..\\",
    "....//",
    "%252e%252e",
    "\x00",
    "a" * 5000,
]
AROUND += [
    "\uff0e\uff0e",
    "\u2025",
    "/etc/passwd",
    "//evil.example",
    "?x=",
    "#x",
    "@evil.example",
    "\r\nX: y",
]


@pytest.mark.parametrize("advisory", ["CVE-2026-32871", "CVE-2026-27825", "CVE-2026-27826", "CVE-2026-26118"])
@pytest.mark.parametrize("text", AROUND)
def test_what_a_caller_says_is_never_part_of_a_url(text: str, advisory: str) -> None:
    """FastMCP, mcp-atlassian, Azure MCP: ``../`` in a parameter led elsewhere with our credentials.

    A backend's URL is the operator's: names, arguments and URIs of callers go into the body. What stands in the URL
    itself cannot end the request line.
    """
    try:
        origin = Origin.of(f"https://h.example/mcp/{text}")
    except LinkLost:
        return
    assert origin.host == "h.example"
    line = request_bytes("POST", origin.target, Fields({}), b"").split(b"\r\n")[0]
    assert line.count(b" ") == 2
    assert b"\x00" not in line


def test_their_requests_to_the_inside_are_not_made() -> None:
    """The other half of those advisories. tests/security/test_ssrf.py has the table."""
    with connects() as seen:
        for url in ("http://169.254.169.254/", "http://[::ffff:127.0.0.1]/", "http://2130706433/"):
            with pytest.raises(LinkLost):
                by_link(url, STRICT)
    assert seen == []


@pytest.mark.parametrize("text", AROUND)
def test_a_tool_s_name_leads_nowhere_else(serve: Serve, text: str) -> None:
    """S8: in the path, in a tool's name, in a resource's URI: not there, or refused, and never a fault of ours."""
    web = serve()
    for path in (f"/servers/{quote(text, safe='')}/mcp", f"/servers/{quote(text, safe='/.')}/mcp"):
        assert web.post(request("ping"), path).status_code in {400, 404, 405, 414}, path
    for method, params in (
        ("tools/call", {"name": f"echo__{text}"}),
        ("resources/read", {"uri": f"note://{text}"}),
    ):
        answer = web.legacy(web.initialize(), method, params)
        assert answer.status_code < 500, (method, answer.status_code)
        assert b"Traceback" not in answer.data
        assert b"root:" not in answer.data


# -- processes --------------------------------------------------------------------------------------------


def test_hermes_agent_59349_no_child_is_left_behind() -> None:
    """28 orphans a day, 660 pipes (hermes-agent-11202, hermes-agent-34966).

    tests/common/processes has the deaths; here: a child goes with its guard.
    """
    before = len(os.listdir("/proc/self/fd"))
    with ProcessGuard(grace=0.5) as guard:
        child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdin=subprocess.DEVNULL)
        guard.add(child.pid)
    assert child.wait(10) != 0
    assert len(os.listdir("/proc/self/fd")) == before


# -- the table itself -------------------------------------------------------------------------------------

ROWS = [
    *("CVE-2025-6514", "CVE-2025-49596", "CVE-2026-42271", "CVE-2026-48710", "GHSA-g53w-w6mj-hrpp"),
    *("GHSA-4gph-2hhr-5mwg", "CVE-2026-27896", "CVE-2026-25536", "CVE-2026-33946", "CVE-2025-6515"),
    *("python-sdk-2100", "CVE-2025-66416", "CVE-2025-66414", "CVE-2026-34742", "CVE-2025-64443"),
    *("CVE-2025-53365", "CVE-2025-53366", "python-sdk-2328", "CVE-2026-32871", "CVE-2026-55887"),
    *("CVE-2026-27825", "CVE-2026-27826", "CVE-2026-26118", "CVE-2026-33032", "CVE-2026-32211"),
    *("CVE-2026-30615", "CVE-2026-30617", "CVE-2026-30623", "CVE-2024-1135", "CVE-2024-6827"),
    *("hermes-agent-59349", "hermes-agent-11202", "hermes-agent-34966"),
]


@pytest.mark.parametrize("row", ROWS)
def test_every_advisory_has_its_test(row: str) -> None:
    """By its name in a function's, or among its parameters."""
    text = Path(__file__).read_text(encoding="utf-8").partition("ROWS = [")[0]
    assert row in text or f"test_{row.lower().replace('-', '_')}_" in text
