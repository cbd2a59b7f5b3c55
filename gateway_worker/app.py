"""The Celery app: ``celery -A gateway_worker.app worker [-Q tool.a,tool.b] [-c 256]``."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import celeryd_init, setup_logging

from common.logs import configure as configure_logs
from common.processes import no_core_dumps
from common.settings import Settings
from common.store.client import StoreAddress
from gateway_worker import tasks
from gateway_worker.settings import address, settings

HOUSEKEEPING_QUEUE = "gateway.housekeeping"
WEEK = 7 * 24 * 3600


def make_app(configured: Settings, redis: StoreAddress) -> Celery:
    """The app for these settings. It opens no connection."""
    app = Celery(
        "canalgate",
        broker=redis.celery_url,
        set_as_current=True,
        task_cls="gateway_worker.discreet:DiscreetTask",
    )
    app.conf.update(
        result_backend=redis.celery_url,
        broker_use_ssl=redis.celery_tls,
        redis_backend_use_ssl=redis.celery_tls,
        task_default_queue=HOUSEKEEPING_QUEUE,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_protocol=2,
        # One list per queue: priorities would split it, and hide a part from whoever measures the backlog.
        broker_transport_options={
            "priority_steps": [0],
            "socket_timeout": redis.socket_timeout,
            "socket_connect_timeout": redis.connect_timeout,
            "health_check_interval": 10,
            "visibility_timeout": WEEK,
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_heartbeat=None,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_pool="gateway_worker.pool:EnginePool",
        worker_concurrency=configured.worker.concurrency,
        worker_send_task_events=configured.worker.events,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        result_expires=int(configured.runtime.result_ttl),
        task_track_started=False,
    )
    tasks.register(app)
    return app


app = make_app(settings(), address())


@celeryd_init.connect
def _prepare_worker(**_: Any) -> None:
    """Only in worker processes: monitors and producers that load this module keep kombu's own transport."""
    from gateway_worker import channel
    from gateway_worker.step import ControlNode, EngineStep

    no_core_dumps()
    channel.install()
    app.control.mailbox.node_cls = ControlNode  # type: ignore[attr-defined]
    app.steps["consumer"].add(EngineStep)


@setup_logging.connect
def _prepare_logs(logfile: str | None = None, **_: Any) -> None:
    """Our logs, instead of Celery's own format; to Celery's ``--logfile`` if there is one."""
    configure_logs(settings().logging, process=f"worker-{os.getpid()}", file=logfile or None)
