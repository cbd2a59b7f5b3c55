"""The stream of a call whose client can come back to it: a log of its frames, and who hands them out.

The worker logs each frame in the step in which it sends it (``call_frame.lua``); a frame's place counts from 1. The
result is not logged: it lies under its own key, and is written after every frame. Who hands the stream out is
on record from the moment it does, with the call as it was made. Whoever takes it over changes that record before it
reads the log: what is not in there by then is sent to it.

Source: 2025-11-25, "Transports", "Resumability and Redelivery".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from common.calls.contract import moved_frame
from common.domain.formats import check_format
from common.domain.ids import InvocationId
from common.domain.invocation import Invocation, invocation_from_wire, invocation_to_wire
from common.store.client import store_errors
from common.store.keys import Keys
from common.store.scripts import Arg
from common.store.shared import SharedConnection

MOST_FRAMES, MOST_BYTES = 1000, 1024 * 1024
"""So much of a call's log is kept, its end: frames, and bytes of all of them."""
_NOT_AGAIN = 0


def frame_script(
    keys: Keys, invocation: InvocationId, payload: bytes, *, reply: str, until: int, again: bool = False
) -> tuple[list[str], list[Arg]]:
    """Keys and arguments of ``call_frame.lua``, for the frame of a call that was begun at the channel ``reply``.

    ``until`` is when its log ends, in ms of Redis time. A frame that is sent ``again`` is not logged twice.
    """
    named = [keys.call_stream(invocation), keys.call_holder(invocation)]
    ends = _NOT_AGAIN if again else until
    return named, [invocation, payload, reply, ends, MOST_FRAMES, MOST_BYTES]


class Logged(NamedTuple):
    """An entry of the log; ``payload`` is empty for a frame that was too large to be kept."""

    place: int
    payload: bytes


class Holder(NamedTuple):
    """Who hands a stream out: the channel of its process, and a name that no other holder has."""

    channel: str
    name: str


class HeldStream(NamedTuple):
    """A call's stream: the call, without its params; how long its client has for an answer, in seconds; the holder."""

    invocation: Invocation
    input_timeout: float
    holder: Holder


class CallStreams:
    """One a process. Fails closed: without Redis no stream is held, found or read."""

    def __init__(self, connection: SharedConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    def hold(self, stream: HeldStream) -> None:
        """Hand a stream out from now on; whoever did so before is told. Raises :class:`StoreUnavailable`."""
        invocation, holder = stream.invocation, stream.holder
        call = invocation_to_wire(replace(invocation, params={}))
        facts = orjson.dumps({"call": call, "input_timeout": stream.input_timeout})
        record = f"{holder.channel} {holder.name}\n".encode() + facts
        key = self._keys.call_holder(invocation.id)
        with store_errors("holding the stream of a call"):
            before = self._connection.command(
                "SET", key, record, "PXAT", invocation.resumable_until or 1, "GET"
            )
            if before is not None:
                told = moved_frame(invocation.id, holder.name)
                self._connection.command("PUBLISH", _holder(before).channel, told)

    def find(self, invocation: InvocationId) -> HeldStream | None:
        """The stream of a call; None if nobody ever handed it out, or that is too long ago.

        Raises :class:`StoreUnavailable`.
        """
        with store_errors("finding the stream of a call"):
            record: bytes | None = self._connection.command("GET", self._keys.call_holder(invocation))
        if record is None:
            return None
        facts = orjson.loads(record.partition(b"\n")[2])
        check_format(facts, what="the record of a call's stream")
        call = invocation_from_wire(facts["call"], task_id=invocation, default_version="", default_deadline=0)
        return HeldStream(call, facts["input_timeout"], _holder(record))

    def read(self, invocation: InvocationId, after: int) -> list[Logged]:
        """What is logged behind a place, in order. Raises :class:`StoreUnavailable`."""
        with store_errors("reading the frames of a call"):
            entries: Sequence[Any] = self._connection.command(
                "XRANGE", self._keys.call_stream(invocation), f"(0-{after}", "+"
            )
        return list(_logged(entries))

    def last(self, invocation: InvocationId) -> int:
        """The place of the last frame; 0 if there is none. Raises :class:`StoreUnavailable`."""
        with store_errors("reading the frames of a call"):
            entries: Sequence[Any] = self._connection.command(
                "XREVRANGE", self._keys.call_stream(invocation), "+", "-", "COUNT", 1
            )
        return next(_logged(entries), Logged(0, b"")).place


def _holder(record: bytes) -> Holder:
    channel, _, name = record.partition(b"\n")[0].decode().partition(" ")
    return Holder(channel, name)


def _logged(entries: Sequence[Any]) -> Iterator[Logged]:
    for name, fields in entries:
        parts = dict(zip(fields[::2], fields[1::2], strict=True))
        yield Logged(int(name.partition(b"-")[2]), parts[b"f"])
