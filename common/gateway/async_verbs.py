"""The control plane for asyncio: each verb of :mod:`common.gateway.verbs` with an ``a`` before its name.

They do their work in threads of the gateway's own. A wait that is cancelled does not undo what its thread does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Concatenate, ParamSpec, Self, TypeVar

from common.audit.journal import LOOK_AGAIN, Journal
from common.domain.audit import AuditRecord
from common.domain.errors import InternalError, StoreUnavailable
from common.gateway.verbs import Verbs

P = ParamSpec("P")
R = TypeVar("R")
V = TypeVar("V", bound="AsyncVerbs")
MOST_THREADS = 32


def _twin(
    verb: Callable[Concatenate[Verbs, P], R],
) -> Callable[Concatenate[AsyncVerbs, P], Awaitable[R]]:
    """The verb, awaited."""

    @wraps(verb)
    async def awaited(gateway: AsyncVerbs, /, *args: P.args, **options: P.kwargs) -> R:
        work = partial(verb, gateway, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(gateway.threads, work)

    return awaited


class AsyncVerbs(Verbs):
    """Use as an asynchronous context manager as well."""

    _threads: ThreadPoolExecutor | None = None
    _threads_lock = threading.Lock()

    @property
    def threads(self) -> ThreadPoolExecutor:
        """Where what blocks is done for coroutines; there are none before the first of them."""
        with self._threads_lock:
            self._require_open()
            if self._threads is None:
                self._threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="canalgate-api")
            return self._threads

    def _end_threads(self) -> None:
        with self._threads_lock:
            threads = self._threads
        if threads is not None:
            threads.shutdown(wait=True)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not in its own threads, which it waits for.
        await asyncio.to_thread(self.close)

    alist_tools = _twin(Verbs.list_tools)
    aget_tool = _twin(Verbs.get_tool)
    aregister_tool = _twin(Verbs.register_tool)
    aupdate_tool = _twin(Verbs.update_tool)
    aremove_tool = _twin(Verbs.remove_tool)
    arefresh_tool = _twin(Verbs.refresh_tool)
    aenable_tool = _twin(Verbs.enable_tool)
    adisable_tool = _twin(Verbs.disable_tool)
    adrain_tool = _twin(Verbs.drain_tool)
    aundrain_tool = _twin(Verbs.undrain_tool)
    await_drained = _twin(Verbs.wait_drained)
    areset_circuit = _twin(Verbs.reset_circuit)
    atrip_circuit = _twin(Verbs.trip_circuit)
    astatus = _twin(Verbs.status)
    asessions = _twin(Verbs.sessions)
    aclose_session = _twin(Verbs.close_session)
    acalls = _twin(Verbs.calls)
    acancel_call = _twin(Verbs.cancel_call)
    aaudit = _twin(Verbs.audit)

    async def asubscribe(
        self, last: str = "$", *, chosen: Callable[[AuditRecord], bool] = lambda _record: True
    ) -> AsyncIterator[AuditRecord]:
        """:meth:`subscribe` for asyncio: it holds no thread while nothing comes, and looks five times a second."""
        journal, loop = Journal(self.client, self.keys), asyncio.get_running_loop()
        at = last if last != "$" else await loop.run_in_executor(self.threads, journal.newest_id)
        while not self._closed:
            try:
                records = await loop.run_in_executor(self.threads, journal.after, at)
            except (InternalError, StoreUnavailable):
                if self._closed:
                    return
                raise
            for record in records:
                at = record.id
                if chosen(record):
                    yield record
            if not records:
                await asyncio.sleep(LOOK_AGAIN)
