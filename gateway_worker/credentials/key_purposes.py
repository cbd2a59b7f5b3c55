"""That no key signs for two purposes: what was signed for the one could be shown for the other (RFC 8725, 2.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from common.domain.errors import ConfigurationError
from common.settings import Settings
from common.settings.token_endpoint import TokenEndpointKeys
from gateway_worker.credentials.given import GivenSecret
from gateway_worker.credentials.signing import Signer


def check_purposes(settings: Settings, signer: Signer) -> None:
    """Refuse the key that speaks for subjects where it makes the gateway itself known, too.

    As the keys are now: those in files are not looked at again when they are replaced. Raises
    :class:`ConfigurationError`.
    """
    for where, other in _own_keys(settings):
        if other.public == signer.public:
            raise ConfigurationError(
                f"{where} is the key of token_exchange.signing_key too: what makes the gateway known could be shown "
                "as a word on a subject, and the other way round; make a key for each",
                field=where,
            )


def _own_keys(settings: Settings) -> Iterator[tuple[str, Signer]]:
    lists: tuple[tuple[str, Iterable[TokenEndpointKeys]], ...] = (
        ("token_exchange.exchanges", settings.token_exchange.exchanges),
        ("client_credentials.clients", settings.client_credentials.clients),
    )
    for name, entries in lists:
        for index, entry in enumerate(entries):
            if entry.auth == "private_key_jwt":
                where = f"{name}[{index}].private_key"
                with suppress(ConfigurationError):  # whoever uses it says what is wrong with it
                    key = GivenSecret(where, entry.private_key, entry.private_key_file)
                    yield key.where, Signer(key, entry.algorithm, entry.key_id)
