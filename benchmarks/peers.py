"""The peers that PyPI or npm can install, each set up as its own documentation has it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from benchmarks import contextforge
from benchmarks.desk import Desk, Transport
from benchmarks.install import install_node, install_python
from benchmarks.processes import free_port
from benchmarks.targets import LEGACY_ONLY, Access, Target
from benchmarks.wire import Endpoint

FASTMCP_VERSION = "4.1.6"
FASTMCP_PROXY_FILE = Path(__file__).resolve().parent / "fastmcp_proxy.py"
MCP_PROXY_PY_VERSION = "0.13.0"
MCP_PROXY_TS_VERSION = "6.7.19"


def _start_fastmcp(desk: Desk, *, held: bool) -> Mapping[Transport, Access]:
    commands = install_python(
        desk.cache / "fastmcp",
        f"fastmcp=={FASTMCP_VERSION}",
        overrides=["certifi>=2026"],  # asks for a certificate bundle newer than some mirrors have
    )
    backends = {
        Transport.HTTP: ["--url", desk.start_http_backend(free_port())],
        Transport.STDIO: ["--command", json.dumps(desk.stdio_command())],
    }
    served = {}
    for transport, backend in backends.items():
        port = free_port()
        command = [str(commands / "python"), str(FASTMCP_PROXY_FILE), "--port", str(port), *backend]
        desk.spawn_server(f"fastmcp-{transport}", command + ["--held"] * held, port=port)
        served[transport] = Endpoint(port=port)
    return served


def _start_mcp_proxy_py(desk: Desk) -> Mapping[Transport, Access]:
    version = f"mcp-proxy=={MCP_PROXY_PY_VERSION}"
    program = str(install_python(desk.cache / "mcp-proxy-py", version) / "mcp-proxy")
    url = desk.start_http_backend(free_port())
    bridge = [program, "--log-level", "WARNING", "--transport", "streamablehttp", url]
    port = free_port()
    command = [program, "--port", str(port), "--host", "127.0.0.1", "--log-level", "WARNING"]
    command += ["--pass-environment"]
    command += ["--named-server", "stdio", shlex.join(desk.stdio_command())]
    command += ["--named-server", "http", shlex.join(bridge)]
    desk.spawn_server("mcp-proxy", command, port=port)
    return {transport: Endpoint(port=port, path=f"/servers/{transport}/mcp") for transport in Transport}


def _start_mcp_proxy_ts(desk: Desk) -> Mapping[Transport, Access]:
    commands = install_node(desk.cache / "mcp-proxy-ts", f"mcp-proxy@{MCP_PROXY_TS_VERSION}")
    port = free_port()
    command = [str(commands / "mcp-proxy"), "--port", str(port), "--host", "127.0.0.1", "--server", "stream"]
    desk.spawn_server("mcp-proxy-ts", [*command, "--", *desk.stdio_command()], port=port)
    return {Transport.STDIO: Endpoint(port=port)}


def peer_targets() -> list[Target]:
    """Return all peers."""
    return [
        Target(
            name="fastmcp",
            version=FASTMCP_VERSION,
            setup="`create_proxy(url)` or `create_proxy({'mcpServers': ...})`, as shipped",
            start=partial(_start_fastmcp, held=False),
        ),
        Target(
            name="fastmcp-held",
            version=FASTMCP_VERSION,
            setup="the same around one connected `Client`, which all callers share",
            start=partial(_start_fastmcp, held=True),
        ),
        Target(
            name="mcp-proxy-py",
            version=MCP_PROXY_PY_VERSION,
            setup="`--named-server`; to an HTTP backend by chaining a second mcp-proxy, its only way",
            start=_start_mcp_proxy_py,
            eras=LEGACY_ONLY,
        ),
        Target(
            name="mcp-proxy-ts",
            version=MCP_PROXY_TS_VERSION,
            setup="`mcp-proxy --server stream -- COMMAND`; it bridges stdio only",
            start=_start_mcp_proxy_ts,
        ),
        Target(
            name="contextforge",
            version=contextforge.VERSION,
            setup="SQLite, stateful sessions, no rate limit, one worker; stdio through its `translate`",
            start=contextforge.start,
            eras=LEGACY_ONLY,
        ),
    ]
