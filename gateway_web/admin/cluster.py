"""``/admin/v1/status``, ``/workers``, ``/queues`` and ``/config``: the gateway as a whole."""

from __future__ import annotations

from dataclasses import asdict

from flask import Response
from flask_openapi.blueprint import APIBlueprint
from flask_openapi.models.tag import Tag

from common import __version__
from common.control.cluster import queues, workers
from common.control.status import status
from common.domain.circuit import CircuitState
from common.identity.operators import Role
from common.settings.masking import masked
from gateway_web.admin.answers import answer
from gateway_web.admin.models import Configuration, Queue, QueueList, Status, Worker, WorkerList
from gateway_web.admin.plane import Plane
from gateway_web.admin.session import acting_as

TAG = Tag(name="cluster", description="The gateway as a whole.")


def add_cluster(api: APIBlueprint, gateway: Plane) -> None:
    """Give the API the routes of the cluster."""
    client, keys = gateway.client, gateway.keys

    @api.get("/status", tags=[TAG], responses={200: Status})
    def get_status() -> Response:
        """Get the gateway's state in a few numbers; all are 0 if Redis does not answer."""
        acting_as(Role.VIEWER)
        found = status(client, keys)
        tools = [tool for tool, _ in found.tools]
        return answer(
            Status(
                version=__version__,
                ready=found.ready,
                missing=list(found.missing),
                redis=found.redis,
                tools=len(tools),
                enabled=sum(tool.entry.enabled for tool in tools),
                open_circuits=sum(tool.circuit.state is not CircuitState.CLOSED for tool in tools),
                sessions=sum(tool.load.sessions for tool in tools),
                waiting=sum(tool.load.waiting for tool in tools),
                in_flight=sum(tool.load.in_flight for tool in tools),
                workers=sum(worker.lease > 0 for worker in found.workers),
                dead_letters=found.dead_letters,
            )
        )

    @api.get("/workers", tags=[TAG], responses={200: WorkerList})
    def list_workers() -> Response:
        """List the workers and what each holds."""
        acting_as(Role.VIEWER)
        return answer(WorkerList(items=[Worker(**asdict(worker)) for worker in workers(client, keys)]))

    @api.get("/queues", tags=[TAG], responses={200: QueueList})
    def list_queues() -> Response:
        """List the tools' queues: what waits, for how long, how fast it is served."""
        acting_as(Role.VIEWER)
        found = queues(client, keys, [entry.id for entry in gateway.registry.entries()])
        return answer(QueueList(items=[Queue(**asdict(queue)) for queue in found]))

    @api.get("/config", tags=[TAG], responses={200: Configuration})
    def get_config() -> Response:
        """Get the settings of this web process, without secrets."""
        acting_as(Role.VIEWER)
        return answer(Configuration(settings=masked(gateway.settings)))
