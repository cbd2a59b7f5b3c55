"""The evaluators of the settings, made ready."""

from __future__ import annotations

from collections.abc import Mapping

from common.domain.egress import STRICT, EgressRules
from common.domain.errors import ConfigurationError
from common.plugins import UnknownPlugin, load_class
from common.policy.bulkhead import Bulkhead
from common.policy.evaluation import Asked, PolicyCounts
from common.ports import PolicyEvaluator
from common.settings import EvaluatorSettings, PolicySettings

GROUP = "canalgate.policy"
"""Of the entry points that name classes of evaluators."""
FIELD = "policy.evaluators"


def evaluators_of(settings: PolicySettings, egress: EgressRules, counts: PolicyCounts) -> Mapping[str, Asked]:
    """All evaluators by id, which connect only where ``egress`` lets them.

    Raises :class:`ConfigurationError` for the first that cannot be made.
    """
    return {entry.id: _asked(entry, egress, counts) for entry in settings.evaluators}


def evaluator_problems(settings: PolicySettings) -> list[str]:
    """What is wrong with the evaluators, in words that name the fix. Empty: nothing."""
    problems = []
    for entry in settings.evaluators:
        try:
            _asked(entry, STRICT, PolicyCounts())  # nobody is connected to
        except ConfigurationError as error:
            problems.append(error.message)
    return problems


def _asked(entry: EvaluatorSettings, egress: EgressRules, counts: PolicyCounts) -> Asked:
    bulkhead = None
    if entry.type in ("opa", "custom"):
        # What waits for OPA waits as this process does; nobody knows what a custom one waits for.
        bulkhead = Bulkhead(entry.max_in_flight, native=entry.type == "custom")
    return Asked(
        entry.id,
        _evaluator(entry, egress),
        counts,
        timeout=entry.timeout,
        bulkhead=bulkhead,
        counters=entry.counters,
    )


def _evaluator(entry: EvaluatorSettings, egress: EgressRules) -> PolicyEvaluator:
    # Each is imported only where it is wanted: the web processes start the sooner.
    match entry.type:
        case "cel":
            from common.policy.cel import CelEvaluator

            return CelEvaluator(entry.id, entry.expression or "")
        case "cedar":
            from common.policy.cedar import CedarEvaluator

            return CedarEvaluator(entry.id, entry.policies or "")
        case "opa":
            from common.policy.opa import OpaEvaluator

            return OpaEvaluator(
                entry.url or "",
                egress=egress,
                token=None if entry.token is None else entry.token.get_secret_value(),
                timeout=entry.timeout,
                connections=entry.max_in_flight,
                cache_ttl=entry.cache_ttl or 0.0,
            )
    return _custom(entry)


def _custom(entry: EvaluatorSettings) -> PolicyEvaluator:
    name = entry.implementation or ""
    try:
        evaluator: PolicyEvaluator = load_class(name, GROUP)(dict(entry.options))
    except UnknownPlugin as error:
        raise ConfigurationError(f"policy evaluator {entry.id!r}: {error.message}", field=FIELD) from error
    except Exception as error:
        # Not its text: a class that does not like its options may repeat them, secrets included.
        raise ConfigurationError(
            f"policy evaluator {entry.id!r}: {name!r} cannot be made: {type(error).__name__}", field=FIELD
        ) from error
    if not callable(getattr(evaluator, "evaluate", None)):
        raise ConfigurationError(
            f"policy evaluator {entry.id!r}: {name!r} has no method evaluate(question)", field=FIELD
        )
    return evaluator
