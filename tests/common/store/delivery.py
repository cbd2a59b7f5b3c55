"""What tests of the delivery's scripts share: each script under the name of what it does to a call or a node."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson

from common.calls.head import Head, head_from_text
from common.domain.ids import InvocationId, NodeId, ToolId, encode_part
from common.store.client import Client
from common.store.keys import Keys
from common.store.scripts import run
from gateway_worker.sweep import PROCESS_GONE, fence_script, lost_answer
from tests.support.messages import QUEUE, stamped, unstamped

A, B = NodeId("celery@a:1"), NodeId("celery@b:2")
TOOL = ToolId("a")
RESULT_MS = 60_000
Taken = tuple[str, str, bytes, int]
"""Delivery tag, id, verdict, fencing token."""


def live(client: Client, keys: Keys, *nodes: NodeId, lease: int = 60_000) -> None:
    """Let nodes live."""
    for node in nodes:
        run(client, "node_beat", [keys.nodes, keys.fenced(node)], [node, lease])


def send_all(client: Client, keys: Keys, node: NodeId) -> None:
    """The backends have seen what the node holds."""
    for tag in client.hkeys(keys.unacked(node)):
        client.hset(keys.unsent(node), tag, 0)
    client.expire(keys.unsent(node), 60)


def die(client: Client, keys: Keys, node: NodeId) -> None:
    """Declare a node dead."""
    assert run(client, "node_fence", *fence_script(keys, node, PROCESS_GONE, actor="test")) == 1


def fetch_raw(
    client: Client,
    keys: Keys,
    node: NodeId,
    *,
    direct: bool = False,
    most: int = 50,
    cap: int = 0,
    tag: int = 1,
    queue: str = QUEUE,
    others: tuple[str, ...] = (),
) -> list[Any]:
    """The answer as it is. ``others`` are queues that are served behind this one, without a cap."""
    lists = [queue, *others, *([keys.direct(node, queue)] if direct else [])]
    named = [part for name in lists for part in ((name, 0) if name in others else (queue, cap))]
    answer: list[Any] = run(
        client,
        "fetch",
        [keys.unacked(node), *lists],
        [most, tag, 1000, 10, keys.begin, node, *named],
    )
    return answer


def fetch(client: Client, keys: Keys, node: NodeId, **how: Any) -> tuple[bytes, list[Taken], list[bytes]]:
    """Status; what was taken; what was dropped."""
    status, flat, _, _, dropped = fetch_raw(client, keys, node, **how)
    taken = [
        (number.decode(), head_of(message).id, verdict, int(token))
        for _, number, message, verdict, token in zip(*[iter(flat)] * 5, strict=True)
    ]
    return status, taken, dropped


def head_of(message: bytes | None) -> Head:
    """The head of a message."""
    return head_from_text(orjson.loads(message or b"")["canalgate"])


def recorded(client: Client, keys: Keys, node: NodeId, tag: int | str) -> Head:
    """The head of what a node holds."""
    return head_of(client.hget(keys.unacked(node), str(tag)))


def put(client: Client, *heads: Head) -> None:
    """Messages in the tool's queue."""
    for one in heads:
        client.lpush(one.queue, stamped(one))


def waiting(client: Client, name: str = QUEUE) -> list[Head]:
    """What waits in a list, the next one first."""
    return [head_of(message) for message in reversed(client.lrange(name, 0, -1))]


def ids(heads: list[Head]) -> list[str]:
    """Their ids."""
    return [one.id for one in heads]


def finish(client: Client, keys: Keys, node: NodeId, tag: str, of: Head, record: str = "r") -> list[Any]:
    """End a call; numbers of the refused, and queues of circuits that want to know."""
    return finish_all(client, keys, node, [(tag, of, record)])


def finish_all(
    client: Client, keys: Keys, node: NodeId, ends: list[tuple[str, Head, str]], *, cold: bool = False
) -> list[Any]:
    """End several calls in one step."""
    args = [
        part
        for tag, of, record in ends
        for part in (tag, of.id, of.queue, of.session, of.reply, record, "f", int(cold), "", of.permits)
    ]
    fixed = [keys.begin, node, RESULT_MS, f" {QUEUE} "]
    answer: list[Any] = run(client, "finish", [keys.unacked(node)], [*fixed, *args])
    return answer


def rescue(client: Client, keys: Keys, node: NodeId, step: int = 100, attempts: int = 3) -> list[Any]:
    """One step of working off what a node left."""
    named = [keys.nodes, keys.fenced(node), keys.unacked(node), keys.unsent(node), keys.direct_queues(node)]
    answer: list[Any] = run(
        client,
        "node_rescue",
        [*named, keys.node_sessions(node), keys.audit],
        [keys.begin, node, step, attempts, RESULT_MS, *lost_answer()],
    )
    return answer


def rescue_all(client: Client, keys: Keys, node: NodeId, step: int = 100) -> list[list[Any]]:
    """All steps. The node stays listed until the last."""
    steps: list[list[Any]] = []
    while not steps or not steps[-1][0]:
        assert client.zscore(keys.nodes, node) == 0
        steps.append(rescue(client, keys, node, step))
        assert sum(steps[-1][1:4]) <= step
    assert client.zscore(keys.nodes, node) is None
    return steps


def admit(client: Client, keys: Keys, of: Head, *, may_create: bool = True) -> list[Any]:
    """Ask for a place in the queue."""
    named = [of.queue, keys.drain(of.queue), keys.head(of.queue)]
    answer: list[Any] = run(client, "admit", named, [unstamped(of), keys.begin, 0, 0, int(may_create), 1, 0])
    return answer


def adopt(
    client: Client, keys: Keys, node: NodeId, tag: int, of: Head, *, may_create: bool = True
) -> list[Any]:
    """Give a recorded message its head."""
    args = [tag, unstamped(of), keys.begin, int(may_create), 1, 0]
    answer: list[Any] = run(client, "call_adopt", [keys.unacked(node), of.queue], args)
    return answer


def put_back(client: Client, keys: Keys, node: NodeId, tag: int | str) -> int:
    """Return a call to its queue."""
    return int(run(client, "call_return", [keys.unacked(node)], [keys.begin, node, str(tag)]))


def drop(client: Client, keys: Keys, node: NodeId, tag: int | str) -> int:
    """Let go of a recorded message."""
    return int(run(client, "call_drop", [keys.unacked(node)], [keys.begin, node, str(tag)]))


def return_direct(client: Client, keys: Keys, node: NodeId, most: int = 100) -> int:
    """Move a direct list back."""
    return int(run(client, "direct_return", [keys.direct(node, QUEUE)], [keys.begin, node, QUEUE, most]))


def release(
    client: Client, keys: Keys, node: NodeId, token: int, *, session: str = "t:c", tool: ToolId = TOOL
) -> int:
    """Free a session."""
    args = [keys.begin, node, encode_part(tool), session, str(token)]
    return int(run(client, "session_release", [keys.sessions(tool)], args))


def reclaim(
    client: Client, keys: Keys, node: NodeId, *, session: str = "t:c", tool: ToolId = TOOL
) -> int | None:
    """Ask for a session again."""
    args = [keys.begin, node, encode_part(tool), session]
    found = run(client, "session_reclaim", [keys.sessions(tool)], args)
    return None if found is None else int(found)


def under_way(client: Client, keys: Keys, queue: str = QUEUE) -> dict[NodeId, int]:
    """How many calls each node holds, by the ledger."""
    places = client.hvals(keys.calls(queue))
    return dict(Counter(NodeId(place.decode().rpartition(" ")[0]) for place in places))


def result(client: Client, keys: Keys, call: str) -> bytes:
    """What stands under a call's result key."""
    return client.get(keys.result(InvocationId(call))) or b""


def require_nothing_left(client: Client, keys: Keys, *nodes: NodeId, queue: str = QUEUE) -> None:
    """No call is under way, and nothing counts one."""
    tool = ToolId(queue.removeprefix("tool."))
    for key in (keys.calls(queue), keys.session_calls(tool)):
        assert client.hgetall(key) == {}, key
    for node in nodes:
        assert client.hgetall(keys.unacked(node)) == {}
        assert client.exists(keys.unsent(node), keys.direct(node, queue)) == 0
        assert client.smembers(keys.node_sessions(node)) == set()
