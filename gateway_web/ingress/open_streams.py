"""How many streams stand open, by transport, for the metrics."""

from __future__ import annotations

from collections.abc import Callable

from common.metrics.figures import Figures
from gateway_web.http import HttpAnswer

NAME = "canalgate_streams"
STREAMABLE = "streamable_http"


def opened(figures: Figures | None, transport: str) -> Callable[[], None]:
    """One more is open, until what is returned is called; a second time that does nothing."""
    if figures is None:
        return _nothing
    figures.count(NAME, transport)
    open_now = [figures]

    def closed() -> None:
        if open_now:
            open_now.pop().count(NAME, transport, by=-1)

    return closed


def counted(figures: Figures | None, answer: HttpAnswer) -> HttpAnswer:
    """An answer of the Streamable HTTP door, which is counted while it is a stream."""
    if figures is None or isinstance(answer.body, bytes):
        return answer
    closed, before = opened(figures, STREAMABLE), answer.on_close

    def end() -> None:
        closed()
        if before is not None:
            before()

    answer.on_close = end
    return answer


def _nothing() -> None:
    """Nobody counts."""
