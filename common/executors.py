"""Transports of one's own: the class that a tool's ``factory`` names, made ready."""

from __future__ import annotations

from common.domain.custom import CustomTransport
from common.domain.errors import ConfigurationError
from common.plugins import UnknownPlugin, load_class
from common.ports import ExecutorFactory

GROUP = "canalgate.executors"
"""Of the entry points that name factories."""


def make_factory(transport: CustomTransport) -> ExecutorFactory:
    """A new factory. Raises :class:`ConfigurationError` if it cannot be made, without what the class itself said."""
    name = transport.factory
    try:
        factory: ExecutorFactory = load_class(name, GROUP)(dict(transport.options))
    except UnknownPlugin as error:
        raise ConfigurationError(f"factory {error.message}", field="factory") from error
    except Exception as error:
        # Not its text: a class that does not like its options may repeat them, secrets included.
        raise ConfigurationError(
            f"factory {name!r} cannot be made: {type(error).__name__}", field="factory"
        ) from error
    if not callable(getattr(factory, "open", None)):
        raise ConfigurationError(f"factory {name!r} has no method open(session)", field="factory")
    return factory
