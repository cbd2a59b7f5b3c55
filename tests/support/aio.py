"""Async tests without a plugin: ``@on_loop`` runs one on a loop of its own and looks at what it leaves behind."""

from __future__ import annotations

import asyncio
import functools
import gc
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SCENARIO_TIMEOUT = 40.0


def on_loop(scenario: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a plain test function of an ``async`` one; its fixtures stay."""

    @functools.wraps(scenario)
    def test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(scenario(*args, **kwargs))

    return test


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end; fail if it leaves a task behind, or an exception that nobody looked at."""
    complaints: list[dict[str, Any]] = []
    _set_modules_aside()

    async def main() -> T:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(SCENARIO_TIMEOUT):
            result = await work
        await until(lambda: not _others(), description="all tasks to end", shown=_others)
        gc.collect()  # a task that failed unseen complains when it is collected
        await asyncio.sleep(0)
        return result

    result = asyncio.run(main())
    gc.collect()
    assert not complaints, f"the loop complained: {complaints}"
    return result


@functools.cache
def _set_modules_aside() -> None:
    """Once: what was imported is no garbage, and looking through it takes 0.1 s each time."""
    gc.collect()
    gc.freeze()


async def until(
    predicate: Callable[[], T],
    *,
    timeout: float = 10.0,
    description: str,
    shown: Callable[[], object] | None = None,
) -> T:
    """``tests.support.wait.wait_until`` for a running loop."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() >= end:
            raise AssertionError(f"not within {timeout} s: {description} ({shown() if shown else value!r})")
        await asyncio.sleep(0.01)


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended.

    Once is not always enough: on Python 3.11 ``asyncio.wait_for``, with which redis-py waits, loses a
    cancellation that comes in the same moment as the answer (python/cpython#86296).
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.5)


def _others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
