"""A worker reads its settings anew at a SIGHUP. Celery would start it again, and end its sessions."""

from __future__ import annotations

import signal
import threading

from common.control.reload import Reload, checked
from common.logs import take_over as take_over_logs
from common.settings import Settings, load
from common.settings.changes import SettingsChanges
from gateway_worker.engine import Engine


class WorkerReload:
    """The engine's settings, and those of the process's log."""

    def __init__(self, engine: Engine, hostname: str) -> None:
        self._engine = engine
        self._reload = Reload(
            self,
            lambda: checked(load),
            process=hostname,
            record=engine.tell_of_reload,
            count=engine.count_reload,
        )

    @property
    def settings(self) -> Settings:
        """Those that hold."""
        return self._engine.settings

    def take_over(self, changes: SettingsChanges) -> None:
        """See :class:`common.control.reload.TakesOver`."""
        self._engine.take_over(changes)
        if "logging" in changes.sections:
            take_over_logs(changes.settings.logging)

    def listen(self) -> None:
        """From now on a SIGHUP means it. Called in the main thread, behind Celery, which has a handler of its own."""
        signal.signal(signal.SIGHUP, self._hung_up)

    def _hung_up(self, _signal: int, _frame: object) -> None:
        threading.Thread(target=self._reload, name="reload", daemon=True).start()
