"""The benchmark's load client: what it reads, what it counts as an error, and its arithmetic."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from benchmarks.backend import EchoServer
from benchmarks.figures import Window, median_of, percentile
from benchmarks.http1 import BadHttpError, Response, ResponseParser, event_data, last_message
from benchmarks.load import HttpLoad, SessionMode
from benchmarks.tally import Tally
from benchmarks.wire import (
    FIRST_CALL_ID,
    BadAnswerError,
    CallTemplate,
    Endpoint,
    Era,
    check_echo,
    http_calls,
    line_calls,
    text_of,
)

PLAIN = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;x=y\r\ndata:\r\n9\r\n {"b":2}\n\r\n1\r\n\n\r\n0\r\n\r\n'
)


class TestResponseParser:
    @pytest.mark.parametrize(("raw", "body"), [(PLAIN, b'{"a":1}'), (CHUNKED, b'data: {"b":2}\n\n')])
    def test_a_response_may_arrive_in_any_pieces(self, raw: bytes, body: bytes) -> None:
        """A byte at a time gives the same response as all at once, and not a byte earlier."""
        whole = ResponseParser().feed(raw)
        parser = ResponseParser()
        pieces = [parser.feed(raw[at : at + 1]) for at in range(len(raw))]
        assert whole is not None
        assert whole.body == body
        assert pieces[:-1] == [None] * (len(raw) - 1)
        assert pieces[-1] == whole

    def test_one_parser_reads_many_responses_of_a_connection(self) -> None:
        """Nothing of a response is left over for the next."""
        parser = ResponseParser()
        bodies = [response.body for raw in (CHUNKED, PLAIN, CHUNKED) if (response := parser.feed(raw))]
        assert bodies == [b'data: {"b":2}\n\n', b'{"a":1}', b'data: {"b":2}\n\n']

    def test_a_body_without_a_length_ends_with_the_connection(self) -> None:
        """Such a body is complete when the peer closes, and not before."""
        parser = ResponseParser()
        assert parser.feed(b"HTTP/1.1 200 OK\r\n\r\nabc") is None
        ended = parser.end()
        assert ended is not None
        assert ended.body == b"abc"

    @pytest.mark.parametrize("cut", [b"HTTP/1.1 20", PLAIN[:-1], CHUNKED[:-3]])
    def test_a_response_cut_short_is_none(self, cut: bytes) -> None:
        """A connection that ends early has given no response."""
        parser = ResponseParser()
        assert parser.feed(cut) is None
        assert parser.end() is None

    @pytest.mark.parametrize("raw", [b"SSH-2.0-x\r\n\r\n", CHUNKED.replace(b"5;x=y", b"zz"), b"x" * 70_000])
    def test_what_is_not_http_is_refused(self, raw: bytes) -> None:
        """Garbage is an error at once, never a wait for more."""
        with pytest.raises(BadHttpError):
            ResponseParser().feed(raw)

    def test_connection_close_is_seen(self) -> None:
        """The lane must not use the connection again."""
        response = ResponseParser().feed(PLAIN.replace(b"Content-Type", b"Connection: close\r\nContent-Type"))
        assert response is not None
        assert response.closes


class TestMessages:
    def test_the_answer_in_a_stream_is_its_last_event_with_data(self) -> None:
        """Comments, priming events and notifications before it are passed over."""
        stream = b': ping\n\nid: 1\ndata:\n\ndata: {"n":1}\r\n\r\nevent: message\ndata: {"a":\ndata: 1}\n\n'
        response = Response(status=200, headers={"content-type": "text/event-stream"}, body=stream)
        assert event_data(stream) == [b'{"n":1}', b'{"a":\n1}']
        assert last_message(response) == {"a": 1}

    @pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
    def test_a_response_without_json_is_an_error_that_shows_it(self, kind: str) -> None:
        """The status and the text are in the message."""
        with pytest.raises(BadHttpError, match=r"HTTP 502 .*Bad Gateway"):
            last_message(Response(status=502, headers={"content-type": kind}, body=b"Bad Gateway"))

    def test_a_correct_echo_passes(self) -> None:
        """The id and the text are the call's own."""
        check_echo(_echo(7, text_of(7)), 7)

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(None, id="nothing"),
            pytest.param({"jsonrpc": "2.0", "id": 8, "result": {"content": []}}, id="another call's id"),
            pytest.param({"jsonrpc": "2.0", "id": 7, "error": {"code": -32000}}, id="an error"),
            pytest.param({"jsonrpc": "2.0", "id": 7, "result": {"content": []}}, id="no content"),
            pytest.param(
                {"jsonrpc": "2.0", "id": 7, "result": {"content": [{"text": "hello-8"}]}}, id="another's text"
            ),
            pytest.param(
                {"id": 7, "result": {"content": [{"text": "hello-7"}], "isError": True}}, id="a tool error"
            ),
        ],
    )
    def test_anything_but_the_calls_own_echo_is_an_error(self, message: object) -> None:
        """No answer counts as good unless it is the right one."""
        with pytest.raises(BadAnswerError):
            check_echo(message, 7)

    @pytest.mark.parametrize("era", list(Era))
    def test_each_call_has_an_id_and_a_text_of_its_own(self, era: Era) -> None:
        """The rendered bytes are one valid request whose stated length is right."""
        call_id = FIRST_CALL_ID + 123
        line = orjson.loads(line_calls("echo", era).render(call_id))
        head, _, body = http_calls(Endpoint(port=1), era, "s").render(call_id).partition(b"\r\n\r\n")
        assert line["id"] == call_id
        assert line["params"]["arguments"] == {"text": text_of(call_id)}
        assert orjson.loads(body) == line
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        assert (b"Mcp-Session-Id: s" in head) is (era is Era.LEGACY)
        assert (b"Mcp-Name: echo" in head) is (era is Era.MODERN)

    def test_a_template_replaces_every_place_of_the_id(self) -> None:
        """Id and text change together."""
        assert CallTemplate(b"<%d|%d>" % (FIRST_CALL_ID, FIRST_CALL_ID)).render(5) == b"<5|5>"


class TestFigures:
    @pytest.mark.parametrize(
        ("percent", "expected"), [(1, 1.0), (50, 50.0), (50.1, 51.0), (99, 99.0), (99.1, 100.0), (100, 100.0)]
    )
    def test_percentile_is_the_nearest_rank(self, percent: float, expected: float) -> None:
        """It is always a value that was measured, whatever the order of the values."""
        assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected

    def test_percentile_of_few_values(self) -> None:
        """One value is every percentile; of two, the median is the lesser."""
        assert percentile([3.0], 1) == percentile([3.0], 99) == 3.0
        assert percentile([9.0, 1.0], 50) == 1.0

    def test_percentile_of_nothing_is_not_a_number(self) -> None:
        """No latency is made up where no call came back."""
        assert math.isnan(percentile([], 50))

    @pytest.mark.parametrize("percent", [0, -1, 100.1])
    def test_percent_out_of_range_is_refused(self, percent: float) -> None:
        """There is no such percentile."""
        with pytest.raises(ValueError, match="percent"):
            percentile([1.0], percent)

    def test_median_leaves_out_what_was_not_measured(self) -> None:
        """A round without figures does not spoil the others."""
        assert median_of([3.0, math.nan, 1.0, 2.0]) == 2.0
        assert math.isnan(median_of([math.nan]))

    def test_rate_counts_good_calls_only(self) -> None:
        """Errors are calls, but no throughput."""
        window = Window(seconds=2.0, latencies=[0.1] * 6)
        window.errors["bad"] += 4
        assert (window.rps, window.calls) == (3.0, 10)


class TestLanes:
    """The client against servers in this process, good and bad."""

    @pytest.mark.parametrize("era", list(Era))
    def test_every_call_reaches_the_backend_once(self, era: Era) -> None:
        """What the client counts is what the backend saw."""
        seen: list[int] = []
        window = _load(_answering(lambda request, _number: _note(seen, request)), era=era)
        assert not window.errors
        assert window.calls == len(seen) == len(set(seen)) > 4
        assert all(0 < latency < 5 for latency in window.latencies)

    def test_a_server_that_closes_after_each_answer_is_no_error(self) -> None:
        """The lane connects again."""
        close = b"Connection: close\r\n"
        window = _load(_answering(lambda request, _number: _json(_answer(request), close)))
        assert not window.errors
        assert window.calls > 4

    def test_wrong_echoes_are_counted(self) -> None:
        """Every third answer is another call's; exactly those are errors."""
        bad: list[int] = []

        def answer(request: bytes, number: int) -> bytes:
            response = _answer(request)
            if number % 3 == 0:
                bad.append(number)
                response["result"]["content"][0]["text"] = "hello-1"
            return _json(response)

        window = _load(_answering(answer))
        assert window.errors.total() == len(bad) > 1
        assert window.calls - len(window.latencies) == len(bad)

    @pytest.mark.parametrize(
        "fault", [b"", b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", b"garbage\r\n\r\n"]
    )
    def test_lost_and_refused_calls_are_counted_and_the_lane_goes_on(self, fault: bytes) -> None:
        """A connection cut, a 503 and garbage each cost one call and no more."""
        bad: list[int] = []

        def answer(request: bytes, number: int) -> bytes:
            if number % 4 == 0:
                bad.append(number)
                return fault
            return _json(_answer(request))

        window = _load(_answering(answer))
        assert window.errors.total() == len(bad) > 1
        assert len(window.latencies) > len(bad)

    def test_a_refused_session_is_an_error_that_says_so(self) -> None:
        """There is nothing to measure then."""

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}")
            writer.close()

        with pytest.raises(BadHttpError, match="initialize was answered 400"):
            _load(refuse)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def _echo(call_id: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": call_id, "result": {"content": [{"type": "text", "text": text}]}}


def _answer(request: bytes) -> dict[str, Any]:
    answer = EchoServer(Tally(None)).answer(orjson.loads(request))
    assert answer is not None
    return answer


def _json(message: dict[str, Any], extra: bytes = b"") -> bytes:
    body = orjson.dumps(message)
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


def _note(seen: list[int], request: bytes) -> bytes:
    seen.append(orjson.loads(request)["id"])
    return _json(_answer(request))


def _answering(answer_call: Callable[[bytes, int], bytes]) -> Handler:
    """Return a server that treats each ``tools/call``, numbered from 1, as ``answer_call`` says; b"" hangs up."""
    number = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if b'"tools/call"' in body:
                    number += 1
                    out = answer_call(body, number)
                elif b'"initialize"' in body:
                    out = _json(_answer(body), b"Mcp-Session-Id: s1\r\n")
                else:
                    out = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
                writer.write(out)
                if not out or b"Connection: close" in out:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed
        finally:
            writer.close()

    return serve


def _load(handler: Handler, *, era: Era = Era.LEGACY) -> Window:
    """Put two lanes on ``handler`` for a moment."""

    async def run() -> Window:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        async with server:
            endpoint = Endpoint(port=server.sockets[0].getsockname()[1])
            async with HttpLoad(endpoint, era=era, mode=SessionMode.SHARED).open(2) as runner:
                return await runner.run(0.2)

    return asyncio.run(run())
