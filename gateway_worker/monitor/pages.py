"""The pages of Flower that are served: each reads. Whatever is not in the table does not exist here.

Left out on purpose: everything that controls (shut down, pools, queues, limits, revoke, apply, abort), results, which
are payloads, Flower's own metrics and its logins.
"""

from __future__ import annotations

import base64
import re
from hashlib import sha256
from typing import Any

from flower.api import tasks as tasks_api
from flower.api import workers as workers_api
from flower.urls import settings as flower_settings
from flower.views.broker import BrokerView
from flower.views.monitor import Healthcheck
from flower.views.tasks import TasksDataTable, TasksView, TaskView
from flower.views.workers import WorkersView, WorkerView
from tornado.web import RequestHandler, StaticFileHandler

from gateway_worker.events import CALL_FIELDS

_INLINE = "\nvar autorefresh = 1;\n"
"""The one script that stands in a page of Flower's (workers) itself; by its digest no other is run."""
_DIGEST = base64.b64encode(sha256(_INLINE.encode()).digest()).decode()
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'self'; script-src 'self' 'sha256-{_DIGEST}'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
}
COLUMNS = (
    ("name", "Call"),
    (CALL_FIELDS["tenant"], "Tenant"),
    (CALL_FIELDS["client"], "Client"),
    (CALL_FIELDS["request_id"], "Request id"),
    *(("uuid", "Invocation"), ("state", "State"), ("received", "Received"), ("runtime", "Runtime")),
    *(("routing_key", "Queue"), ("worker", "Worker")),
)
_LIMITS = re.compile(
    rb'<li[^>]*><a[^>]* id="worker-tab-limits".*?</li>|<div[^>]* id="tab-limits".*?<!-- end limits tab -->',
    re.DOTALL,
)
READS, SEARCHES = ("GET", "HEAD"), ("GET", "POST")


class Shown:
    """Before a handler of Flower's: who asks has been checked (:class:`Monitor`), and errors tell nothing."""

    application: Any

    def prepare(self) -> None:
        """Nothing more to check."""

    def get_current_user(self) -> str:
        """Somebody: who may not look does not come here."""
        return "operator"

    def check_xsrf_cookie(self) -> None:
        """Nothing is changed here, so there is nothing to forge."""

    def set_default_headers(self) -> None:
        """On every answer."""
        for name, value in SECURITY.items():
            self.set_header(name, value)  # type: ignore[attr-defined]

    def write_error(self, status_code: int, **_: Any) -> None:
        """A status in words: Flower's page of an error has its traceback."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")  # type: ignore[attr-defined]
        self.finish(f"{status_code}: {self._reason}\n")  # type: ignore[attr-defined]

    def get_broker(self) -> Any:
        """Whoever knows how long queues are."""
        return self.application.lengths


class Tasks(TasksView):  # type: ignore[misc]
    """The list of calls, with columns of our own."""

    def get(self) -> None:
        """The page; its rows come from the data table."""
        self.render("tasks.html", columns=COLUMNS, time="time")


class Worker(WorkerView):  # type: ignore[misc]
    """A worker's page without the tab of limits: empty fields to type into, of which none does anything here."""

    def render_string(self, template_name: str, **values: Any) -> bytes:
        """The page."""
        page: bytes = super().render_string(template_name, **values)
        return _LIMITS.sub(b"", page)


class Refused(Shown, RequestHandler):
    """Says no, to every method."""

    def initialize(self, *, status: int) -> None:
        """``status`` is the answer."""
        self._status = status

    async def prepare(self) -> None:  # type: ignore[override]
        """The answer, before any method is looked for."""
        if self._status == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="canalgate", charset="UTF-8"')
        self.set_status(self._status)
        self.write_error(self._status)


def _shown(handler: type[RequestHandler]) -> type[RequestHandler]:
    return type(f"Shown{handler.__name__}", (Shown, handler), {})


PAGES = tuple(
    (re.compile(pattern), _shown(handler), methods)
    for pattern, handler, methods in (
        (r"/", WorkersView, READS),
        (r"/workers", WorkersView, READS),
        (r"/worker/([^/]+)", Worker, READS),
        (r"/tasks", Tasks, READS),
        (r"/tasks/datatable", TasksDataTable, SEARCHES),
        (r"/task/([^/]+)", TaskView, READS),
        (r"/broker", BrokerView, READS),
        (r"/api/workers", workers_api.ListWorkers, READS),
        (r"/api/tasks", tasks_api.ListTasks, READS),
        (r"/api/task/types", tasks_api.ListTaskTypes, READS),
        (r"/api/task/info/([^/]+)", tasks_api.TaskInfo, READS),
        (r"/api/queues/length", tasks_api.GetQueueLengths, READS),
    )
)
"""Path, handler, methods. ``POST`` of the data table is how Flower's page asks for rows; it changes nothing."""
STATIC = re.compile(r"/static/(.*)"), _shown(StaticFileHandler), {"path": flower_settings["static_path"]}
HEALTH = _shown(Healthcheck)
