"""Stock Celery, as anybody sets it up: ``celery -A benchmarks.stock_app worker -E``.

Its one task does what the bench's other worker does in `benchmarks.echo_app`: it counts the call and returns the
text. ``BENCH_REDIS`` says where Redis is, ``BENCH_TALLY`` where to count.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.tally import Tally

_REDIS = os.environ["BENCH_REDIS"]

app = Celery("stock", broker=_REDIS, backend=_REDIS)
app.conf.update(broker_connection_retry_on_startup=True, result_expires=300)


@cache
def tally() -> Tally:
    """The counter of this process: a child of the prefork pool has its own."""
    return Tally(Path(os.environ["BENCH_TALLY"]))


@app.task(name="gateway.invoke")
def invoke(invocation: dict[str, Any]) -> dict[str, Any]:
    """Return the text, as the backend would."""
    tally().bump()
    text = invocation["params"]["arguments"]["text"]
    return {"content": [{"type": "text", "text": text}], "isError": False}
