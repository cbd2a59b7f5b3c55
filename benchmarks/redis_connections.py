"""CPU per Redis command: our two connections against redis-py's clients, in one run.

``python -m benchmarks.redis_connections unix:///path/to.sock``; prints a table and writes
``build/bench-redis.json``. The blocking half runs in a child of its own, patched by gevent as a web process is.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from common.store.client import StoreAddress, connect, connect_async
from common.store.pipelined import PipelinedConnection
from common.store.shared import SharedConnection

COMMANDS = 3000
Row = dict[str, str | int | float]


def row(name: str, concurrency: int, cpu: float) -> Row:
    """One line of the table."""
    return {"name": name, "concurrency": concurrency, "cpu_us_per_command": round(cpu / COMMANDS * 1e6, 1)}


async def asyncio_rows(address: StoreAddress) -> list[Row]:
    """The asyncio connections, alone and with fifty commands under way."""
    pipelined, client = PipelinedConnection(address), connect_async(address)
    rows = []
    for concurrency in (1, 50):
        for name, command in (
            ("pipelined", lambda: pipelined.command("SET", "bench", "v")),
            ("redis-py asyncio", lambda: client.set("bench", "v")),
        ):
            rows.append(row(name, concurrency, await timed(command, concurrency)))
    await pipelined.aclose()
    await client.aclose()
    return rows


async def timed(command: Callable[[], Awaitable[object]], concurrency: int) -> float:
    """CPU seconds of ``COMMANDS`` commands."""

    async def lane() -> None:
        for _ in range(COMMANDS // concurrency):
            await command()

    await command()
    begun = time.process_time()
    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return time.process_time() - begun


def blocking_rows(address: StoreAddress) -> list[Row]:
    """The blocking connections, with one and with sixty greenlets."""
    shared, client = SharedConnection(address), connect(address)
    rows = []
    for concurrency in (1, 60):
        for name, command in (
            ("shared", lambda: shared.command("SET", "bench", "v")),
            ("redis-py", lambda: client.set("bench", "v")),
        ):
            rows.append(row(name, concurrency, blocking_timed(command, concurrency)))
    shared.close()
    client.close()
    return rows


def blocking_timed(command: Callable[[], object], concurrency: int) -> float:
    """CPU seconds of ``COMMANDS`` commands."""

    def lane() -> None:
        for _ in range(COMMANDS // concurrency):
            command()

    command()
    lanes = [threading.Thread(target=lane) for _ in range(concurrency)]
    begun = time.process_time()
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    return time.process_time() - begun


def main() -> None:
    """Measure and print."""
    address = StoreAddress(url=sys.argv[1])
    if "--blocking" in sys.argv:
        print(orjson.dumps(blocking_rows(address)).decode())
        return
    patched = (
        "from gevent import monkey; monkey.patch_all(); from benchmarks.redis_connections import main; main()"
    )
    child = subprocess.run(
        [sys.executable, "-c", patched, address.url, "--blocking"], capture_output=True, check=True, text=True
    )
    rows: list[Row] = [*asyncio.run(asyncio_rows(address)), *orjson.loads(child.stdout)]
    for found in rows:
        print(
            f"{found['name']:<18} {found['concurrency']:>3} under way {found['cpu_us_per_command']:>8} us CPU"
        )
    target = Path("build/bench-redis.json")
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
