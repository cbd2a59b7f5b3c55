"""Why a provider of ours knows nothing, in words that may be shown."""

from __future__ import annotations


class ProviderFailed(Exception):
    """Its words go to the log and the audit journal: they are ours, and hold nothing that another side sent."""


class ProviderRefused(ProviderFailed):
    """The other side is there, and says no to whom it was asked for: what it gave before is not to be used either."""
