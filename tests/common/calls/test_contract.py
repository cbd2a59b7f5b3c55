"""What we put into queues and result keys is Celery's own: stock workers, producers and clients understand it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from redis import Redis

from common.calls.contract import (
    INVOKE_TASK,
    REDACTED,
    new_invocation_id,
    notification_frame,
    result_frame,
    result_record,
    task_message,
    type_name,
    wire_of_record,
)
from common.calls.head import MEMBER
from common.domain import errors
from common.domain.errors import ERRORS_BY_CODE, ErrorCode, GatewayError
from common.domain.ids import ClientId, InvocationId, McpSessionId, TenantId, ToolId, queue_of
from common.domain.invocation import (
    Caller,
    ExecutionResult,
    Invocation,
    answer,
    failed,
    invocation_to_wire,
    result_from_wire,
    result_to_wire,
    rpc_failure,
)
from common.processes import ProcessGuard
from common.store.client import StoreAddress
from common.store.keys import Keys
from tests.support.messages import head
from tests.support.redis import RedisServer
from tests.support.stock_celery import make_app

DATABASE = 5
"""Celery keeps keys of its own for ever; they stay out of the database that is searched for leaks."""
TOOL = ToolId("it's/a tool")
QUEUE = queue_of(TOOL)
DONE_AT = "2026-11-22T12:00:00+00:00"


def invocation(**changes: Any) -> Invocation:
    fields: dict[str, Any] = {
        "id": InvocationId(new_invocation_id()),
        "caller": Caller(
            tenant=TenantId("t"), client=ClientId("c"), subject="s", scopes=frozenset({"b", "a"})
        ),
        "tool": TOOL,
        "method": "tools/call",
        "params": {"name": "x", "arguments": {"text": "ünï", "n": 2**53, "deep": [{"a": None}]}},
        "version": "2025-11-25",
        "deadline": 1_900_000_000_000,
        "request_id": 7,
        "mcp_session": McpSessionId("m"),
    }
    return Invocation(**fields | changes)


@pytest.fixture(scope="module")
def address(redis_server: RedisServer) -> StoreAddress:
    return StoreAddress(url=redis_server.url(DATABASE))


@pytest.fixture(scope="module")
def broker(redis_server: RedisServer) -> Iterator[Redis]:
    with redis_server.client(DATABASE) as client:
        yield client
        client.flushdb()


@pytest.fixture(scope="module")
def stock(address: StoreAddress) -> Iterator[Celery]:
    """A stock client."""
    app = make_app(address.celery_url)
    yield app
    consumer = app.backend.result_consumer
    consumer.stop()
    consumer._pubsub = None  # or results that are collected later unsubscribe over a new connection
    app.backend.client.connection_pool.disconnect()
    app.close()


@pytest.fixture(scope="module")
def stock_worker(address: StoreAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A stock worker on the tool's queue; it prints tracebacks where the test can show them."""
    log = tmp_path_factory.mktemp("celery") / "log"
    argv = [sys.executable, "-m", "celery", "-A", "tests.support.stock_celery", "worker", "-P", "solo"]
    argv += ["-Q", QUEUE, "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "warning"]
    with ProcessGuard(grace=1) as guard, log.open("wb") as output:
        worker = subprocess.Popen(
            argv,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "STOCK_CELERY_REDIS": address.celery_url},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        guard.add(worker.pid)
        yield
        worker.terminate()
        worker.wait(20)
        guard.discard(worker.pid)
    print(log.read_text())


def send(broker: Redis, call: Invocation) -> None:
    message = task_message(call, head(call.id, queue=QUEUE, reply="test:reply:1"), prefix="test")
    broker.lpush(QUEUE, message)


# -- messages -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("stock_worker")
def test_a_stock_worker_executes_our_message(stock: Celery, broker: Redis) -> None:
    """Task, arguments and headers arrive, and its result reaches a stock client."""
    call = invocation()
    send(broker, call)
    seen = stock.AsyncResult(call.id).get(timeout=30)
    assert seen["invocation"] == orjson.loads(orjson.dumps(invocation_to_wire(call)))
    assert seen["request"] == {
        "id": call.id,
        "root_id": call.id,
        "correlation_id": call.id,
        "argsrepr": REDACTED,
        "kwargsrepr": "{}",
        "reply_to": "test:reply:1",
        "origin": "canalgate:test",
        "retries": 0,
    }
    assert seen["delivery"]["routing_key"] == QUEUE


@pytest.mark.usefixtures("stock_worker")
def test_a_stock_worker_fails_our_message(stock: Celery, broker: Redis) -> None:
    """An exception there is an exception here: acknowledged, not run again."""
    call = invocation(method="raise")
    send(broker, call)
    with pytest.raises(ValueError, match="as the caller wished"):
        stock.AsyncResult(call.id).get(timeout=30)
    assert broker.llen(QUEUE) == 0


def test_kombu_reads_our_envelope(stock: Celery, broker: Redis) -> None:
    """Content type, encoding, properties and body, as any consumer sees them."""
    call = invocation()
    with stock.connection_for_read() as connection:
        channel = connection.default_channel
        envelope = orjson.loads(task_message(call, head(call.id, queue=QUEUE, reply="r"), prefix="o"))
        message = channel.message_to_python(envelope)
        args, kwargs, embed = message.decode()
    assert args == [orjson.loads(orjson.dumps(invocation_to_wire(call)))]
    assert kwargs == {}
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert (message.headers["task"], message.headers["id"]) == (INVOKE_TASK, call.id)
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")
    assert (message.properties["reply_to"], message.delivery_tag) == ("r", call.id)


def test_our_headers_are_those_of_a_stock_producer(stock: Celery, broker: Redis) -> None:
    """Whatever a monitor looks for in a message of Celery's, it finds in ours."""
    queue = "stock-producer"
    stock.send_task(INVOKE_TASK, args=[{}], queue=queue)
    theirs = orjson.loads(broker.rpop(queue) or b"")
    ours = orjson.loads(task_message(invocation(), head(queue=queue, reply="r"), prefix="o"))
    # What is beside Celery's own is the head, which stock workers pass over.
    assert set(ours) == set(theirs) | {MEMBER}
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(theirs["headers"]) <= set(ours["headers"])
    assert theirs["properties"]["delivery_info"].keys() == ours["properties"]["delivery_info"].keys()


def test_arguments_are_shown_nowhere_but_in_the_body() -> None:
    """Events, logs and monitors print ``argsrepr``."""
    secret = "hunter2"
    call = invocation(params={"name": "x", "arguments": {"password": secret}})
    message = orjson.loads(task_message(call, head(call.id, queue=QUEUE, reply="r"), prefix="o"))
    body = message.pop("body")
    assert secret in body
    assert secret not in str(message)
    assert message["headers"]["argsrepr"] == REDACTED


def test_ids_are_unique() -> None:
    """They are task ids, and result keys."""
    assert len({new_invocation_id() for _ in range(1000)}) == 1000


# -- results --------------------------------------------------------------------------------------------

ANSWERS: list[ExecutionResult] = [
    answer(
        {"content": [{"type": "text", "text": "ünï"}], "structuredContent": {"n": 2**53}}, duration_ms=1.5
    ),
    answer({"content": [], "isError": True}),
    rpc_failure({"code": -32002, "message": "no such thing", "data": {"uri": "x"}}),
]
FAILURES = [failed(ERRORS_BY_CODE[code](f"because of {code}", field="x")) for code in ErrorCode]


def record(broker: Redis, result: ExecutionResult) -> str:
    name = new_invocation_id()
    broker.set(Keys.result(InvocationId(name)), result_record(name, result, done_at=DONE_AT), ex=60)
    return name


@pytest.mark.parametrize("result", ANSWERS)
def test_an_answer_of_the_backend_is_success(stock: Celery, broker: Redis, result: ExecutionResult) -> None:
    """``AsyncResult.get()`` returns our result, be it an error of the backend."""
    found = stock.AsyncResult(record(broker, result))
    assert found.get(timeout=5) == orjson.loads(orjson.dumps(result_to_wire(result)))
    assert (found.state, found.traceback, found.children) == ("SUCCESS", None, [])
    assert found.date_done is not None
    assert result_from_wire(found.get(timeout=5)) == result


@pytest.mark.parametrize("result", FAILURES, ids=lambda result: result.failure.code)
def test_what_never_became_an_answer_is_failure(
    stock: Celery, broker: Redis, result: ExecutionResult
) -> None:
    """``AsyncResult.get()`` raises the exception by its own name, with its message."""
    assert result.failure is not None
    found = stock.AsyncResult(record(broker, result))
    with pytest.raises(GatewayError) as caught:
        found.get(timeout=5)
    assert type(caught.value) is ERRORS_BY_CODE[result.failure.code]
    assert type(caught.value).__module__ == errors.__name__
    assert caught.value.message == result.failure.message
    assert found.state == "FAILURE"


def test_a_client_that_does_not_know_us_gets_an_exception_of_that_name(
    address: StoreAddress, broker: Redis
) -> None:
    """Without our package installed: the class is made up, with the same name and message."""
    name = record(broker, failed(errors.InvocationTimeout("too late")))
    program = (
        "import sys\n"
        "from celery import Celery\n"
        "app = Celery(broker=sys.argv[1], backend=sys.argv[1])\n"
        "try:\n"
        "    app.AsyncResult(sys.argv[2]).get(timeout=5)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
        "assert not [name for name in sys.modules if name.startswith('common')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, address.celery_url, name],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=30,
        check=False,
    )
    assert done.stdout.strip() == "InvocationTimeout too late", done.stderr


def test_no_record_is_no_result(stock: Celery) -> None:
    """A stock client waits, as for any task."""
    with pytest.raises(CeleryTimeoutError):
        stock.AsyncResult(new_invocation_id()).get(timeout=0.1)


@pytest.mark.parametrize("result", [*ANSWERS, *FAILURES])
def test_we_read_our_own_records(result: ExecutionResult) -> None:
    """Both forms hold our result whole."""
    raw = orjson.loads(result_record("i", result, done_at=DONE_AT))
    assert result_from_wire(wire_of_record(raw)) == result


def test_every_failure_names_an_exception() -> None:
    """Of our tree; what has no failure at all is our own fault."""
    assert {type_name(result) for result in FAILURES} == {kind.__name__ for kind in ERRORS_BY_CODE.values()}
    assert type_name(answer({})) == "InternalError"


# -- frames ---------------------------------------------------------------------------------------------


def test_frames_are_an_id_and_an_object() -> None:
    """``<id> <json>``: the id is read without parsing the rest."""
    name, _, frame = result_frame("i", answer({"a": 1})).partition(b" ")
    assert (name, orjson.loads(frame)) == (b"i", {"result": result_to_wire(answer({"a": 1}))})
    name, _, frame = notification_frame("i", "notifications/message", {"data": "x y"}).partition(b" ")
    assert name == b"i"
    assert orjson.loads(frame) == {
        "notification": {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x y"}}
    }
