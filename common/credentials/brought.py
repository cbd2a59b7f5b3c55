"""Providers of credentials that packages bring, or that the settings name by a class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from common.domain.errors import ConfigurationError
from common.plugins import UnknownPlugin, load_class
from common.ports import CredentialsProvider
from common.settings.credentials import CredentialsSettings

GROUP = "canalgate.credentials"
"""Entry points of packages that bring a provider."""


def brought_provider(
    name: str, settings: CredentialsSettings, built_in: Iterable[str]
) -> CredentialsProvider:
    """A new one. Raises :class:`ConfigurationError` if it cannot be made, without what its class said."""
    try:
        provider: Any = load_class(name, GROUP, built_in)(settings)
    except UnknownPlugin as error:
        raise fault(error.message) from None
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a constructor raises
        # Not its words: they may hold a secret of the settings.
        raise fault(f"{name!r} cannot be loaded: {type(error).__name__}") from None
    if not callable(getattr(provider, "resolve", None)):
        raise fault(f"{name!r} has no method resolve(request)")
    found: CredentialsProvider = provider
    return found


def fault(words: str) -> ConfigurationError:
    """What is wrong with ``credentials.providers``."""
    return ConfigurationError(f"credentials.providers: {words}", field="credentials.providers")
