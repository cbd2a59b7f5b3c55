"""Metrics of the web processes: whom ``/metrics`` is shown to, what this process adds to it, and pushing the same."""

from __future__ import annotations

import hmac
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping

from flask import Flask, Response, request

from common.domain.errors import Unauthenticated
from common.gateway import Gateway
from common.metrics.cluster import cluster_figures
from common.metrics.figures import Figures, Sample
from common.metrics.start import figures_of, pusher_of
from common.metrics.told import Teller
from common.settings.fields import UNIX
from common.settings.metrics import MetricsSettings
from gateway_web.ingress.answers import refusal_status

PATH = "/metrics"
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Whoever sends one of them passes on what somebody else wants."""


class Readers:
    """Who may read the page. Fails closed."""

    def __init__(self, settings: MetricsSettings) -> None:
        self._token = None if settings.token is None else settings.token.get_secret_value().encode()
        self._unix = UNIX in settings.allowed
        self._networks = [ipaddress.ip_network(name) for name in settings.allowed if name != UNIX]

    def check(self, peer: str, headers: Mapping[str, str]) -> None:
        """Raises :class:`Unauthenticated` for whoever may not."""
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        if self._token is not None and scheme.lower() == "bearer":
            if hmac.compare_digest(sent.strip().encode(), self._token):
                return
            raise Unauthenticated("this is not the token of metrics.token")
        if any(name in headers for name in FORWARDED) or not self._allowed(peer):
            raise Unauthenticated("send metrics.token, or connect from an address in metrics.allowed")

    def _allowed(self, peer: str) -> bool:
        if not peer:
            return self._unix
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


def process_name() -> str:
    """This web process in the figures."""
    return f"web-{os.getpid()}@{socket.gethostname()}"


def begin_counting(gateway: Gateway) -> None:
    """Count from now on, if anybody reads it. Comes before the first request."""
    figures = gateway.figures = figures_of(gateway.settings, process_name(), "web")
    if figures is None:
        return

    def now() -> Iterator[Sample]:
        yield "canalgate_requests_waiting", (), gateway.hub.waiting
        yield "canalgate_reply_heals", (), gateway.hub.heals
        yield "canalgate_reply_subscriptions", (), gateway.hub.subscriptions
        for (evaluator, outcome), number in gateway.policy.counts.evaluations.copy().items():
            yield "canalgate_policy_evaluations", (evaluator, outcome), number
        for ground, number in gateway.policy.counts.denials.copy().items():
            yield "canalgate_policy_denials", (ground,), number

    figures.watch(now)

    def timed(evaluator: str, seconds: float) -> None:
        figures.time("canalgate_policy_evaluation_seconds", seconds, evaluator)

    gateway.policy.counts.timed = timed


def add_metrics(app: Flask, gateway: Gateway) -> None:
    """Push what is counted, if that is wanted, and show it to whoever may read it. Nothing where nothing is counted."""
    if gateway.figures is None:
        return
    _push(gateway, gateway.figures)
    if gateway.settings.metrics.wanted:
        _show(app, gateway, gateway.figures)


def _push(gateway: Gateway, figures: Figures) -> None:
    """Push this process's figures; and the cluster's, when it is this one's turn."""

    def read() -> list[Sample]:
        return cluster_figures(gateway.client, gateway.keys, gateway.tenants.bounded())

    pusher = pusher_of(gateway.settings, figures, "web", cluster=(gateway.client, gateway.keys, read))
    if pusher is not None:
        pusher.start()


def _show(app: Flask, gateway: Gateway, figures: Figures) -> None:
    """Serve the page, and tell the other processes this one's figures."""
    from common.metrics.page import CONTENT_TYPE, Page

    page, readers = (
        Page(gateway.client, gateway.keys, figures, quotas=gateway.tenants.bounded),
        Readers(gateway.settings.metrics),
    )
    gateway.follow(Teller(gateway.client, gateway.keys, figures).tick)

    def metrics() -> Response:
        try:
            readers.check(request.remote_addr or "", {name.lower(): value for name, value in request.headers})
        except Unauthenticated as error:
            headers = {"WWW-Authenticate": "Bearer"}
            return Response(f"{error.message}\n", refusal_status(error), headers, content_type="text/plain")
        return Response(page.text(), content_type=CONTENT_TYPE)

    app.add_url_rule(PATH, "metrics", metrics, methods=["GET"])
