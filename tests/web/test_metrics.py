"""``/metrics``: closed unless somebody is named who may read it; what a web process counts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.common.metrics.test_page import Samples, read
from tests.web.harness import Serve, Web

TOKEN = "t" * 20
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def samples_of(web: Web) -> Samples:
    response = web.http.get("/metrics", headers=BEARER)
    assert response.status_code == 200, response.text
    return read(response.data)


def total(samples: Samples, name: str, **labels: str) -> float:
    """Over all processes."""
    wanted = set(labels.items())
    return sum(number for (found, has), number in samples.items() if found == name and wanted <= has)


def test_there_is_no_page_unless_somebody_may_read_it(serve: Serve) -> None:
    """And nothing is counted."""
    web = serve()
    assert web.http.get("/metrics").status_code == 404
    assert web.gateway.figures is None
    assert not web.gateway.client.exists(web.gateway.keys.told_figures)


@pytest.mark.parametrize(
    ("settings", "headers", "peer", "status"),
    [
        ({"token": TOKEN}, BEARER, "203.0.113.9", 200),
        ({"token": TOKEN}, {}, "127.0.0.1", 401),
        ({"token": TOKEN}, {"Authorization": "Bearer wrong"}, "127.0.0.1", 401),
        ({"token": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, "127.0.0.1", 401),
        ({"allowed": ["10.0.0.0/8"]}, {}, "10.1.2.3", 200),
        ({"allowed": ["10.0.0.0/8"]}, {}, "::ffff:10.1.2.3", 200),
        ({"allowed": ["10.0.0.0/8"]}, {}, "127.0.0.1", 401),
        ({"allowed": ["10.0.0.0/8"]}, {}, "", 401),
        ({"allowed": ["10.0.0.0/8"]}, {"X-Forwarded-For": "10.1.2.3"}, "10.1.2.3", 401),
        ({"allowed": ["10.0.0.0/8"]}, {"Forwarded": "for=10.1.2.3"}, "10.1.2.3", 401),
        ({"allowed": ["10.0.0.0/8"]}, {"X-Forwarded-For": "10.1.2.3"}, "203.0.113.9", 401),
        (
            {"allowed": ["10.0.0.0/8"], "token": TOKEN},
            {**BEARER, "X-Forwarded-For": "9.9.9.9"},
            "127.0.0.1",
            200,
        ),
        ({"allowed": ["10.0.0.0/8"], "token": TOKEN}, {"Authorization": "Bearer wrong"}, "10.1.2.3", 401),
    ],
)
def test_who_may_read_it(
    settings: dict[str, Any], headers: dict[str, str], peer: str, status: int, serve: Serve
) -> None:
    """Who has the token, or connects from a listed address himself: what a proxy passes on is the proxy's word."""
    response = serve(metrics=settings).http.get(
        "/metrics", headers=headers, environ_overrides={"REMOTE_ADDR": peer}
    )
    assert response.status_code == status
    assert (b"canalgate_redis_up 1.0" in response.data) == (status == 200)
    assert TOKEN.encode() not in response.data


def test_requests_and_refusals_are_counted(serve: Serve) -> None:
    """By method and outcome; what callers invent is no label."""
    web = serve(metrics={"token": TOKEN})
    session = web.initialize()
    for number in range(3):
        assert web.legacy(session, "tools/call", {"name": "echo__add"}, id=number).status_code == 200
    web.legacy(session, "tools/call", {"name": "nobody__add"}, id=7)
    web.legacy(session, "made/up", {}, id=8)
    web.legacy(session, "tools/call", {"name": "off__add"}, id=9)
    samples = samples_of(web)
    count = "canalgate_requests_total"
    assert total(samples, count, method="tools/call", outcome="ok") == 3
    assert total(samples, count, method="other", outcome="rpc_error") == 1
    assert total(samples, "canalgate_request_duration_seconds_count", method="tools/call") == 5
    assert "made/up" not in str(samples)
    assert "nobody" not in str(samples)
    assert total(samples, "canalgate_requests_waiting") == 0


def test_identity_failures_are_counted(serve: Serve) -> None:
    """By reason."""
    web = serve(
        metrics={"token": TOKEN},
        identity={"resolver": "api_key", "api_keys": [{"key": "k" * 20, "tenant": "t", "client": "c"}]},
    )
    assert web.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}).status_code == 401
    assert total(samples_of(web), "canalgate_identity_failures_total", reason="missing") == 1


def test_calls_that_policy_denies_are_counted(serve: Serve) -> None:
    """As denials and as refusals."""
    web = serve(
        metrics={"token": TOKEN},
        policy={"evaluators": [{"id": "no", "type": "cel", "expression": "false"}], "evaluator": "no"},
    )
    session = web.initialize()
    web.legacy(session, "tools/call", {"name": "echo__add"})
    samples = samples_of(web)
    assert total(samples, "canalgate_policy_evaluations_total", evaluator="no", outcome="deny") == 1
    assert total(samples, "canalgate_policy_denials_total") == 1
    assert total(samples, "canalgate_policy_evaluation_seconds_count", evaluator="no") == 1
    assert total(samples, "canalgate_refusals_total", tool="echo", code="POLICY_DENIED") == 1
