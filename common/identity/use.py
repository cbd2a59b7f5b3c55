"""What keeps an API key from being of any use: told to whoever issues one, by whichever way."""

from __future__ import annotations

from collections.abc import Iterator

from common.settings import Settings


def key_warnings(settings: Settings, tenant: str) -> Iterator[str]:
    """What would have a key of this tenant refused, with the fix. The key is issued all the same: settings change."""
    if "api_key" not in settings.identity.resolver:
        yield "api_key is not in identity.resolver: this gateway takes no API keys"
    if not settings.tenants.allow_unlisted and tenant not in settings.listed_tenants:
        yield f"tenant {tenant!r} may not call: add it to tenants.listed"
