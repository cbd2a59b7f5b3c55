"""ContextForge: the one peer that wants an account, a token and a registration before its first call."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.desk import Desk, Transport
from benchmarks.install import install_python
from benchmarks.processes import StartError, free_port
from benchmarks.targets import Access
from benchmarks.wire import Endpoint

VERSION = "1.1.0"
_ADMIN = "admin@example.com"


def _environment(folder: Path) -> dict[str, str]:
    """One node as documented, with what makes it fast: stateful sessions, cache in memory, no limits."""
    return {
        "JWT_SECRET_KEY": secrets.token_hex(32),
        "AUTH_ENCRYPTION_SECRET": secrets.token_hex(32),
        "DATABASE_URL": f"sqlite:///{folder}/contextforge.db",
        "PLATFORM_ADMIN_EMAIL": _ADMIN,
        "PLATFORM_ADMIN_PASSWORD": f"Aa1!{secrets.token_hex(16)}",
        "DEFAULT_USER_PASSWORD": f"Aa1!{secrets.token_hex(16)}",
        "ADMIN_REQUIRE_PASSWORD_CHANGE_ON_BOOTSTRAP": "false",
        "CACHE_TYPE": "memory",
        "RATE_LIMITING_ENABLED": "false",  # otherwise locked out after 100 calls
        "SSRF_PROTECTION_ENABLED": "false",  # otherwise refuses a backend on loopback
        "USE_STATEFUL_SESSIONS": "true",
        "LOG_LEVEL": "ERROR",
        "LOG_TO_FILE": "false",
    }


def start(desk: Desk) -> Mapping[Transport, Access]:
    """Install, start and register; return its two virtual servers.

    Raises:
        UnavailableError, StartError: what a `Target` may raise.
    """
    commands = install_python(
        desk.cache / "contextforge", f"mcp-contextforge-gateway=={VERSION}", minimum=(3, 12)
    )
    environment = _environment(desk.folder)
    port, bridge_port = free_port(), free_port()
    url = desk.start_http_backend(free_port())
    program = [str(commands / "mcpgateway"), "--host", "127.0.0.1", "--port", str(port)]
    desk.spawn_server("contextforge", program, port=port, env=environment)
    bridge = [str(commands / "python"), "-m", "mcpgateway.translate", "--port", str(bridge_port)]
    bridge += ["--expose-streamable-http", "--logLevel", "error", "--stdio", shlex.join(desk.stdio_command())]
    desk.spawn_server("translate", bridge, port=bridge_port, env=environment)
    token = _token(desk, commands, environment)
    urls = {Transport.HTTP: url, Transport.STDIO: f"http://127.0.0.1:{bridge_port}/mcp"}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            client.headers["Authorization"] = f"Bearer {token}"
            return {at: _register(client, str(at), where, port, token) for at, where in urls.items()}
    except (httpx.HTTPError, KeyError, IndexError) as error:
        raise StartError(f"registration failed: {error!r}") from error


def _token(desk: Desk, commands: Path, environment: Mapping[str, str]) -> str:
    """Have the peer's own tool mint an administrator's token."""
    command = [str(commands / "python"), "-m", "mcpgateway.utils.create_jwt_token", "--username", _ADMIN]
    command += ["--exp", "10080", "--secret", environment["JWT_SECRET_KEY"], "--admin"]
    process = desk.spawn("token", command, env=environment)

    def minted() -> list[str]:
        return [line for line in process.log_text().split() if line.startswith("eyJ")]

    process.wait_for(lambda: bool(minted()), "a token")
    return minted()[0]


def _register(client: httpx.Client, name: str, url: str, port: int, token: str) -> Endpoint:
    """Register one backend and make a virtual server of its echo tool."""
    gateway = _send(
        client, "/gateways", {"name": name, "url": url, "transport": "STREAMABLEHTTP", "visibility": "public"}
    )
    tools = client.get("/tools").raise_for_status().json()
    tool = next(tool for tool in tools if tool["gatewayId"] == gateway["id"])
    server = {"name": name, "associated_tools": [tool["id"]], "visibility": "public"}
    made = _send(client, "/servers", {"server": server})
    return Endpoint(
        port=port,
        path=f"/servers/{made['id']}/mcp",
        tool=tool["name"],
        headers={"Authorization": f"Bearer {token}"},
    )


def _send(client: httpx.Client, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    answer = client.post(path, json=body)
    if answer.is_error:
        raise StartError(f"{path} was answered {answer.status_code}: {answer.text[:300]}")
    made: dict[str, Any] = answer.json()
    return made
