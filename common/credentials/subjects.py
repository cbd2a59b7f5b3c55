"""Whether the subjects of several tenants could become one at an authorization server."""

from __future__ import annotations

from collections.abc import Iterator

from common.settings import Settings


def joined_subjects(settings: Settings) -> Iterator[str]:
    """Of each entry of ``token_exchange`` that is for every tenant's subjects, in words that name the ways out.

    A subject is unique within its tenant alone, and many servers look at ``sub`` and at nothing else. Nothing for a
    gateway with one tenant; tenants that are set while it runs cannot be told beforehand.
    """
    if "token_exchange" not in settings.credentials.providers:
        return
    if not settings.tenants.allow_unlisted and len(settings.listed_tenants) == 1:
        return
    for index, entry in enumerate(settings.token_exchange.exchanges):
        if entry.tenant is None:
            yield (
                f"token_exchange.exchanges[{index}] names no tenant: a server that knows a subject by sub alone takes "
                "the equal subjects of two tenants for one. Have it look at the claim tenant too, or give each tenant "
                "an entry of its own"
            )
