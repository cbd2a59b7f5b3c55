"""In which order a backend is asked for the eras that it may speak."""

from __future__ import annotations

from common.domain.tool import HttpTransport, Tool
from common.mcp.revisions import Era
from common.registry.records import Entry


def first_era(entry: Entry, preferred: Era) -> Era:
    """The first of :func:`era_order`."""
    if entry.known is not None and preferred.value in entry.known.eras:
        return preferred
    return era_order(entry, preferred)[0]


def era_order(entry: Entry, preferred: Era) -> list[Era]:
    """In which order to try the eras: the caller's first, if the backend is known to speak it, or may.

    An HTTP backend that speaks the modern era was never asked for the other one: the first legacy caller's session
    finds out.
    """
    known = entry.known
    spoken = [era for era in Era if known is not None and era.value in known.eras]
    if not spoken:
        return opening_order(entry.tool)
    if preferred in spoken:
        return [preferred, *(era for era in spoken if era is not preferred)]
    if spoken == [Era.MODERN] and isinstance(entry.tool.transport, HttpTransport):
        return [Era.LEGACY, Era.MODERN]
    return spoken


def opening_order(tool: Tool) -> list[Era]:
    """In which order to ask a backend of which nothing is known.

    Over HTTP the modern era first: a server of that era alone is sent no handshake it does not know (2026-07-28,
    "Versioning"). Over stdio the legacy handshake, which none answers with silence, as some do ``server/discover``.
    """
    return [Era.MODERN, Era.LEGACY] if isinstance(tool.transport, HttpTransport) else [Era.LEGACY, Era.MODERN]
