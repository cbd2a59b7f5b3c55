"""The providers that the settings name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module

from common.credentials.brought import brought_provider, fault
from common.domain.errors import ConfigurationError
from common.ports import CredentialsProvider
from common.settings import Settings
from gateway_worker.credentials.environment import EnvironmentProvider
from gateway_worker.credentials.files import FileProvider
from gateway_worker.credentials.static import StaticProvider
from gateway_worker.credentials.vault import VaultProvider


def _late(module: str, kind: str) -> Callable[[Settings], CredentialsProvider]:
    """One whose packages take a while to import: that is done where it is asked for."""

    def make(settings: Settings) -> CredentialsProvider:
        made: CredentialsProvider = getattr(import_module(f"{__package__}.{module}"), kind)(settings)
        return made

    return make


BUILT_IN: Mapping[str, Callable[[Settings], CredentialsProvider]] = {
    "static": lambda settings: StaticProvider(settings.credentials.static),
    "environment": lambda settings: EnvironmentProvider(settings.credentials.environment_prefix, os.environ),
    "file": lambda settings: FileProvider(settings.credentials.directory),
    "vault": VaultProvider,
    "aws": _late("aws", "AwsProvider"),
    "gcp": _late("gcp", "GcpProvider"),
    "client_credentials": _late("client_credentials", "ClientCredentialsProvider"),
    "token_exchange": _late("token_exchange", "TokenExchangeProvider"),
}


def load_providers(settings: Settings) -> dict[str, CredentialsProvider]:
    """All of ``credentials.providers`` by name, in their order.

    Raises :class:`ConfigurationError` for one that cannot be made: the worker does not start then.
    """
    return {name: _load(name, settings) for name in settings.credentials.providers}


def _load(name: str, settings: Settings) -> CredentialsProvider:
    made = BUILT_IN.get(name)
    if made is None:
        return brought_provider(name, settings.credentials, BUILT_IN)
    try:
        return made(settings)
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a constructor raises
        # Not its words: they may hold a secret of the settings.
        raise fault(f"{name!r} cannot be loaded: {type(error).__name__}") from None
