"""What every implementation of a plug point must do, as tests: for whoever writes one.

Make a class of tests of a contract and fill in what it asks for. They need no package of their own: any runner that
calls methods named ``test_*`` will do. Those of sinks and evaluators are in :mod:`common.audit.sink_contract` and
:mod:`common.policy.testing`.
"""


def require(true: bool, otherwise: str) -> None:  # noqa: FBT001 - a claim
    """Raise AssertionError with these words if it is not so; ``python -O`` does not leave it out."""
    if not true:
        raise AssertionError(otherwise)
