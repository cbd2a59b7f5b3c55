"""The evaluator ``opa`` against a server that speaks OPA's protocol, with real Rego behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.domain.egress import STRICT, EgressRules
from common.domain.policy import Counters, Decision, Ground
from common.policy.evaluation import Asked, PolicyCounts
from common.policy.loading import evaluators_of
from common.policy.testing import PolicyEvaluatorContract, question
from common.ports import PolicyEvaluator
from common.settings import PolicySettings
from tests.support.servers.opa import FAILING, Opa, running_opa
from tests.support.wait import wait_until


@pytest.fixture
def opa() -> Iterator[Opa]:
    with running_opa() as server:
        yield server


MADE: list[Asked] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


def asked_of(
    url: str, counts: PolicyCounts | None = None, rules: EgressRules = STRICT, **options: object
) -> Asked:
    settings = PolicySettings.model_validate(
        {"evaluators": [{"id": "o", "type": "opa", "url": url, **options}]}
    )
    MADE.append(evaluators_of(settings, rules, counts or PolicyCounts())["o"])
    return MADE[-1]


def decide(asked: Asked, **parts: object) -> Decision:
    return asked.decide(question(**parts), left=30)  # type: ignore[arg-type]


class TestContract(PolicyEvaluatorContract):
    """As any evaluator."""

    allowed = question(tenant="acme")
    denied = question(tenant="other")

    @pytest.fixture(autouse=True)
    def _server(self, opa: Opa) -> None:
        self._opa = opa

    def evaluator(self) -> PolicyEvaluator:
        return asked_of(f"{self._opa.url}/allow")._evaluator


@pytest.mark.parametrize(
    ("rule", "parts", "expected"),
    [
        ("allow", {"tenant": "acme"}, Decision(allowed=True, evaluator="o")),
        (
            "allow",
            {"tenant": "other"},
            Decision(
                allowed=False, ground=Ground.EVALUATOR, evaluator="o", reason="the policy has no answer"
            ),
        ),
        ("nothing/of/the/kind", {}, None),
        ("decision", {"name": "read_all"}, Decision(allowed=True, evaluator="o", rule="reads")),
        (
            "decision",
            {"name": "write"},
            Decision(
                allowed=False, ground=Ground.EVALUATOR, evaluator="o", rule="writes", reason="only reads"
            ),
        ),
        ("plain", {"arguments": {"amount": 10}}, Decision(allowed=True, evaluator="o")),
        (
            "plain",
            {"arguments": {"amount": 11}},
            Decision(allowed=False, ground=Ground.EVALUATOR, evaluator="o"),
        ),
    ],
)
def test_rego_decides(opa: Opa, rule: str, parts: dict[str, object], expected: Decision | None) -> None:
    """True, false, an object with a reason; undefined denies."""
    found = decide(asked_of(f"{opa.url}/{rule}"), **parts)
    if expected is None:
        assert (found.allowed, found.reason) == (False, "the policy has no answer")
    else:
        assert found == expected


def test_it_is_sent_the_whole_question(opa: Opa) -> None:
    """And a token, if it wants one."""
    decide(
        asked_of(f"{opa.url}/allow", token="s3cret"),
        tenant="acme",
        subject="me",
        scopes=("b", "a"),
        arguments={"x": 1},
        counters=Counters(tool_calls=1, tool_waiting=2, tenant_sessions=3),
    )
    assert opa.asked == [
        {
            "tenant": "acme",
            "client": "ci",
            "subject": "me",
            "scopes": ["a", "b"],
            "tool": "tool",
            "kind": "tool",
            "name": "read",
            "method": "tools/call",
            "arguments": {"x": 1},
            "request_id": "1",
            "counters": {"tool_calls": 1, "tool_waiting": 2, "tenant_sessions": 3},
        }
    ]
    assert opa.headers[0]["authorization"] == "Bearer s3cret"


@pytest.mark.parametrize("mode", FAILING)
def test_whatever_goes_wrong_denies_in_time(opa: Opa, mode: str) -> None:
    """Within the deadline, with the fault counted; and the next question is answered."""
    counts = PolicyCounts()
    asked = asked_of(f"{opa.url}/allow", counts, timeout=0.3)
    opa.mode = mode
    began = time.monotonic()
    found = decide(asked)
    assert time.monotonic() - began < 2
    slow = mode in ("hang", "drip")
    assert (found.allowed, found.ground) == (False, Ground.EVALUATOR_ERROR)
    assert counts.evaluations == {("o", found.reason): 1}
    assert found.reason in (("timeout", "raised") if slow else ("raised",))
    opa.mode = None
    opa.go_on.set()
    assert decide(asked).allowed


def test_nobody_there_denies() -> None:
    """At once."""
    found = decide(asked_of("http://127.0.0.1:1/v1/data/x"))
    assert (found.allowed, found.ground, found.reason) == (False, Ground.EVALUATOR_ERROR, "raised")


def test_a_hanging_one_takes_a_bounded_number_of_calls_with_it(opa: Opa) -> None:
    """The others are told at once; no tenant takes more than half of the room."""
    counts = PolicyCounts()
    asked = asked_of(f"{opa.url}/allow", counts, timeout=0.5, max_in_flight=4)
    opa.mode = "hang"
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda number: decide(asked, tenant=f"t{number % 3}"), range(12)))
    assert all(decision.ground is Ground.EVALUATOR_ERROR for decision in found)
    assert counts.evaluations["o", "busy"] >= 8
    opa.mode = None
    opa.go_on.set()
    wait_until(lambda: asked._bulkhead is not None and not asked._bulkhead.running, description="all ended")
    assert decide(asked, tenant="acme").allowed


def test_connections_are_kept(opa: Opa) -> None:
    """One for questions that come one after the other."""
    asked = asked_of(f"{opa.url}/allow")
    for _ in range(5):
        assert decide(asked).allowed
    assert opa.connections == 1


def test_an_answer_holds_for_the_same_question_only(opa: Opa) -> None:
    """For a while, if the settings say so; never a fault, and never where counters were asked for."""
    asked = asked_of(f"{opa.url}/plain", cache_ttl=60)
    opa.mode = "500"
    assert decide(asked, arguments={"amount": 1}).ground is Ground.EVALUATOR_ERROR
    opa.mode = None
    for _ in range(3):
        assert decide(asked, arguments={"amount": 1}).allowed
        assert not decide(asked, arguments={"amount": 11}).allowed
        assert decide(asked, arguments={"amount": 1}, tenant="other").allowed
    assert len(opa.asked) == 1 + 3
    counters = Counters(tool_calls=1, tool_waiting=2, tenant_sessions=3)
    for _ in range(2):
        decide(asked, arguments={"amount": 1}, counters=counters)
    assert len(opa.asked) == 1 + 3 + 2


def test_without_a_time_nothing_is_kept(opa: Opa) -> None:
    """Each call is asked about."""
    asked = asked_of(f"{opa.url}/allow")
    decide(asked)
    decide(asked)
    assert len(opa.asked) == 2
