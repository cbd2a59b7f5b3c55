"""Switching counting and pushing on. Nothing of OpenTelemetry is loaded where nothing is pushed."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from common.metrics.figures import Figures, Sample
from common.settings import Settings
from common.store.client import Client
from common.store.keys import Keys
from common.telemetry.metrics_plan import metrics_plan_of
from common.telemetry.plan import Program
from common.telemetry.start import quiet_exporters

if TYPE_CHECKING:
    from common.metrics.push import Pusher

log = structlog.get_logger(__name__)


def figures_of(settings: Settings, process: str, program: Program) -> Figures | None:
    """What a process counts in; None where nobody reads it: neither ``/metrics`` is served nor anything pushed."""
    pushed = metrics_plan_of(settings.telemetry, os.environ, program) is not None
    return Figures(process) if settings.metrics.wanted or pushed else None


def pusher_of(
    settings: Settings,
    figures: Figures,
    program: Program,
    *,
    cluster: tuple[Client, Keys, Callable[[], list[Sample]]] | None = None,
) -> Pusher | None:
    """What pushes a process's figures; None if that is off. Start it; it ends with the process, after a last push.

    ``cluster`` is for a process that may push the cluster's as well: its Redis, and how they are read. Egress is held
    against where the collector's URL leads, as for traces. Raises what is wrong with the plan; a collector that is
    away does not.
    """
    plan = metrics_plan_of(settings.telemetry, os.environ, program)
    if plan is None:
        return None
    from common.metrics.exporters import exporter_of, resources
    from common.metrics.push import Cluster, Pusher, Reading

    quiet_exporters()
    shared = None
    if cluster is not None:
        client, keys, read = cluster
        shared = Cluster(client, keys, figures.process, read, plan.interval)
    reading = Reading(figures, resources(plan), shared)
    pusher = Pusher(reading, exporter_of(plan, settings.egress.rules), interval=plan.interval)
    atexit.register(pusher.close)
    log.info("metrics_pushed", exporter=plan.exporter, interval=plan.interval)
    return pusher
