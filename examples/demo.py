"""``make demo``: start a gateway with two tools, call them with the official MCP client, show each stage, stop.

Everything is real: an embedded Redis-compatible server, a Celery worker, gunicorn, two MCP servers on the
official SDK (one a child process of the worker, one behind HTTP).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import yaml
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

DEMO_SERVER = [sys.executable, "-m", "gateway_worker.demo_server"]
STAGES = {
    "queue": "web process -> Celery queue in Redis -> worker",
    "session": "the worker's session with the tool",
    "backend": "the tool itself",
    "total": "all of it, as the web process saw it",
}


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A child that is stopped at the end, gently first."""
    child = subprocess.Popen(argv, text=True, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def wait_for_ready(gateway: subprocess.Popen[str]) -> str:
    """The endpoint in the line ``ready <endpoint> ...``; ends the program if the gateway does not start."""
    if gateway.stdout is not None:
        for line in gateway.stdout:
            if line.startswith("ready "):
                return line.split()[1]
    raise SystemExit(f"the gateway did not start (exit status {gateway.wait()})")


def wait_for_port(port: int, child: subprocess.Popen[str], seconds: float = 30.0) -> None:
    """Wait until somebody listens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.05)
    raise SystemExit("the HTTP demo tool did not start")


class Timings:
    """Collects the Server-Timing header of each answer: where the time of a call went."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    async def see(self, response: httpx2.Response) -> None:
        """Read the header."""
        header = response.headers.get("server-timing")
        if header:
            parts = (part.strip().partition(";dur=") for part in header.split(","))
            self.last = {name: float(value) for name, _, value in parts}


async def make_calls(endpoint: str) -> None:
    """List the tools and call some, in both eras of the protocol."""
    timings = Timings()
    async with httpx2.AsyncClient(event_hooks={"response": [timings.see]}) as http:
        for mode in ("legacy", "2026-07-28"):
            async with Client(streamable_http_client(endpoint, http_client=http), mode=mode) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                print(
                    f"\nMCP client connected, revision {client.protocol_version}: {len(tools)} tools, {tools}"
                )
                for name, arguments in (
                    ("local__echo", {"text": "the first call starts the tool"}),
                    ("local__echo", {"text": "the next one finds it running"}),
                    ("remote__add", {"a": 20, "b": 22}),
                ):
                    await call(client, timings, name, arguments)
        async with Client(streamable_http_client(endpoint, http_client=http), mode="legacy") as client:
            await call_with_progress(client)


async def call(client: Client, timings: Timings, name: str, arguments: dict[str, object]) -> None:
    """One call, and where its time went."""
    started = time.perf_counter()
    result = await client.call_tool(name, arguments)
    took = (time.perf_counter() - started) * 1000
    text = getattr(result.content[0], "text", "")
    if result.is_error:
        raise SystemExit(f"{name} failed: {text}")
    print(f"  tools/call {name} {arguments} -> {text!r} in {took:.1f} ms")
    for stage, meaning in STAGES.items():
        if stage in timings.last:
            print(f"      {timings.last[stage]:8.1f} ms  {stage:<8} {meaning}")


async def call_with_progress(client: Client) -> None:
    """A call that reports progress while it runs: the answer becomes an event stream."""
    seen: list[float] = []

    async def progressed(progress: float, total: float | None, message: str | None) -> None:  # noqa: ARG001
        seen.append(progress)

    result = await client.call_tool("local__count", {"to": 5}, progress_callback=progressed)
    text = getattr(result.content[0], "text", "")
    print(f"  tools/call local__count with progress {seen} -> {text!r}")
    if not seen:
        raise SystemExit("no progress arrived")


def main() -> None:
    """Run the demo; exit 0 if every call was answered."""
    http_port, state = free_port(), tempfile.TemporaryDirectory(prefix="canalgate-demo-")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with state, running([*DEMO_SERVER, "--port", str(http_port)], **quiet) as http_tool:
        wait_for_port(http_port, http_tool)
        settings = Path(state.name) / "canalgate.yaml"
        settings.write_text(
            yaml.safe_dump(
                {
                    "tools": {
                        "local": {"command": DEMO_SERVER[0], "args": DEMO_SERVER[1:]},
                        "remote": {"url": f"http://127.0.0.1:{http_port}/mcp"},
                    }
                }
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "gateway_web", "up", "--config", str(settings), "--port", "0"]
        environment = {**os.environ, "CANALGATE_STATE_DIR": str(Path(state.name) / "state")}
        started = time.monotonic()
        print("starting the gateway: Redis-compatible server, Celery worker, web process")
        with running(command, stdout=subprocess.PIPE, env=environment) as gateway:
            endpoint = wait_for_ready(gateway)
            print(f"ready after {time.monotonic() - started:.1f} s at {endpoint}")
            asyncio.run(make_calls(endpoint))
            print("\nstopping the gateway")
    print("done: every call was answered")


if __name__ == "__main__":
    main()
