"""A Celery app as anybody might write one: nothing of ours in it but the name of the task.

``celery -A tests.support.stock_celery worker`` serves it; ``STOCK_CELERY_REDIS`` says where Redis is.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery


def make_app(url: str) -> Celery:
    """The app with broker and result backend in one Redis."""
    app = Celery("stock", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True, worker_hijack_root_logger=False, result_expires=60
    )

    @app.task(name="gateway.invoke", bind=True, shared=False)
    def invoke(task: Any, invocation: dict[str, Any]) -> dict[str, Any]:
        if invocation["method"] == "raise":
            raise ValueError("as the caller wished")
        names = ("id", "root_id", "argsrepr", "kwargsrepr", "reply_to", "correlation_id", "origin", "retries")
        return {
            "invocation": invocation,
            "request": {name: getattr(task.request, name) for name in names},
            "delivery": task.request.delivery_info,
        }

    return app


app = make_app(os.environ.get("STOCK_CELERY_REDIS", "memory://"))
