"""Why a provider of ours knows nothing, in words that may be shown."""

from __future__ import annotations


class ProviderFailed(Exception):
    """Its words go to the log and the audit journal: they are ours, and hold nothing that another side sent."""
