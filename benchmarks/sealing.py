"""What sealed payloads cost a call: ``python -m benchmarks.sealing``. No Redis; on and off in the same run, in turns.

A call is what both programs do for one that passes through Redis: its message is written and read, and so are the
record and the frame of its result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import orjson

from common.calls.contract import (
    encoded_result,
    opened_argument,
    result_frame,
    result_of_wire,
    result_record,
    task_message,
)
from common.calls.head import Head
from common.domain.ids import ClientId, InvocationId, TenantId, ToolId
from common.domain.invocation import Caller, ExecutionResult, Invocation, answer
from common.domain.rules import Retry
from common.store.keys import Keys
from common.store.sealing import SealingKey, Seals

SIZES = (200, 10_000, 200_000)
"""Bytes of the argument, and of the answer."""
ROUNDS, SECONDS = 7, 0.3
QUEUE = "tool.a"
HEAD = Head(
    id=InvocationId("i"), deadline=1, reply="p:reply:x", session="t:c", leave=Retry.UNSENT, queue=QUEUE
)


def one_call(keys: Keys, invocation: Invocation, result: ExecutionResult) -> None:
    """Everything that is written and read of one call."""
    raw = task_message(invocation, HEAD, prefix=keys.prefix, seals=keys.seals)
    [[argument], _, _] = orjson.loads(orjson.loads(raw)["body"])
    opened_argument(argument, invocation.id, QUEUE, keys)
    encoded = encoded_result(result, invocation.id, keys.seals)
    result_record(invocation.id, result, done_at="", encoded=encoded, sealed=keys.seals is not None)
    frame = result_frame(invocation.id, result, encoded=encoded)
    result_of_wire(orjson.loads(frame.partition(b" ")[2])["result"], invocation.id, keys)


def microseconds(work: Callable[[], None]) -> float:
    """CPU of one call."""
    begun, count = time.process_time(), 0
    while (spent := time.process_time() - begun) < SECONDS:
        for _ in range(20):
            work()
        count += 20
    return spent / count * 1e6


def main() -> None:
    """Print a table: the median of some rounds, in which both ways take turns."""
    sealing = Keys("p", Seals([SealingKey("k", b"s" * 32)], prefix="p"))
    caller = Caller(tenant=TenantId("t"), client=ClientId("c"))
    print("| bytes each way | off, us | on, us | more, us |")
    print("|---|---|---|---|")
    for size in SIZES:
        invocation = Invocation(
            id=InvocationId("i"),
            caller=caller,
            tool=ToolId("a"),
            method="tools/call",
            params={"name": "echo", "arguments": {"text": "x" * size}},
            version="2025-11-25",
            deadline=1,
        )
        result = answer({"content": [{"type": "text", "text": "x" * size}]})
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for on, keys in ((False, Keys("p")), (True, sealing)):
                found[on].append(microseconds(partial(one_call, keys, invocation, result)))
        off, on_ = (statistics.median(found[way]) for way in (False, True))
        print(f"| {size} | {off:.1f} | {on_:.1f} | {on_ - off:.1f} |")


if __name__ == "__main__":
    main()
