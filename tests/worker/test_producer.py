"""Stock producers' calls: they get the head that the gateway's own calls have, or a refusal that names the field."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import orjson
import pytest

from common.calls.contract import task_message
from common.calls.head import MEMBER, Head, head_from_text
from common.domain.errors import Forbidden, GatewayError, InvalidRequest, ToolNotFound
from common.domain.ids import TenantId
from common.domain.invocation import Invocation, invocation_to_wire
from common.domain.rules import CircuitRules, Retry, Routing
from common.domain.tool_status import OperatorState
from common.registry.records import Entry
from common.settings import RuntimeSettings, Settings, TenantSettings, TenantsSettings
from common.store.clock import RedisClock
from common.store.keys import Keys
from common.tenants.view import Tenants
from gateway_worker.message import TaskMessage, read_message
from gateway_worker.producer import Producer
from tests.support.backends import FixedCatalogue, entry_of, invocation, stdio_tool
from tests.support.messages import head
from tests.support.wait import wait_until
from tests.worker.engine_bench import Bench

if TYPE_CHECKING:
    from common.store.client import Client

QUEUE = "tool.local"
SETTINGS = Settings(
    runtime=RuntimeSettings(request_timeout=10),
    tenants=TenantsSettings(
        allow_unlisted=True, max_sessions=5, listed=(TenantSettings(id=TenantId("big"), max_sessions=50),)
    ),
)


NOW = int(time.time() * 1000)


class FixedClock(RedisClock):
    """Redis' time stands still."""

    def now(self) -> int:
        return NOW


def producer(*entries: Entry) -> Producer:
    """One that knows these tools."""
    tenants = Tenants(cast("Client", None), Keys("test"), SETTINGS)
    return Producer(Keys("test"), FixedClock(), FixedCatalogue(*entries).get, SETTINGS, tenants)


def stock(call: Invocation, *, queue: str = QUEUE, reply_to: str = "stock-queue") -> TaskMessage:
    """The call as a stock producer sends it: there is no head."""
    made: dict[str, Any] = orjson.loads(task_message(call, head(call.id, queue=queue), prefix="test"))
    del made[MEMBER]
    made["properties"]["reply_to"] = reply_to
    return read_message(orjson.dumps(made), queue)


def payload(call: Invocation, **changes: Any) -> dict[str, Any]:
    """The argument of the task, with some of its members replaced."""
    return {**invocation_to_wire(call), **changes}


def adopted_head(made: bytes) -> Head:
    """The head of an adopted message."""
    return head_from_text(orjson.loads(made)[MEMBER])


# -- a message that lies in the queue -------------------------------------------------------------------


def test_a_message_gets_a_head_and_stays_what_it_was() -> None:
    """The head is its first member, where a script finds it."""
    call = invocation("echo", tenant="t", client="c")
    message = stock(call)
    entry, made, _ = producer(entry_of(stdio_tool(max_sessions=7))).adopted(message, payload(call))
    name, audit, *rest = orjson.loads(made)
    assert (entry.id, name, audit) == ("local", MEMBER, "audit")
    assert {member: orjson.loads(made)[member] for member in rest} == message.envelope
    assert adopted_head(made) == Head(
        id=call.id,
        deadline=call.deadline,
        reply="",
        session="t:c",
        leave=Retry.UNSENT,
        queue=QUEUE,
        max_sessions=7,
        tenant_max_sessions=5,
    )


@pytest.mark.parametrize(("tenant", "most"), [("big", 50), ("other", 5)])
def test_the_tenants_own_bound_counts(tenant: str, most: int) -> None:
    """As for calls through the web."""
    call = invocation("echo", tenant=tenant)
    _, made, _ = producer(entry_of(stdio_tool())).adopted(stock(call), payload(call))
    assert adopted_head(made).tenant_max_sessions == most


def test_a_call_for_a_pool_has_its_size() -> None:
    """Redis chooses the session."""
    call = invocation("echo")
    tool = stdio_tool(routing=Routing.LEAST_LOADED, pool_size=3)
    _, made, _ = producer(entry_of(tool)).adopted(stock(call), payload(call))
    assert (adopted_head(made).session, adopted_head(made).pool_size) == ("*", 3)


@pytest.mark.parametrize("retry", list(Retry))
def test_the_tools_leave_goes_along(retry: Retry) -> None:
    """A stock producer has no say in whether a call runs twice."""
    call = invocation("echo")
    _, made, _ = producer(entry_of(stdio_tool(retry=retry))).adopted(stock(call), payload(call))
    assert adopted_head(made).leave is retry


@pytest.mark.parametrize(
    ("reply_to", "reply"),
    [
        ("test:reply:web1", "test:reply:web1"),
        ("other:reply:web1", ""),
        ("test:reply:", ""),
        ("test:reply:web1|never", ""),
        ('test:reply:web1"', ""),
        ("4711-stock", ""),
        ("", ""),
    ],
)
def test_only_a_channel_of_ours_is_answered(reply_to: str, reply: str) -> None:
    """Any other text might be somebody's key or end the part of the head."""
    call = invocation("echo")
    message = stock(call, reply_to=reply_to)
    _, made, _ = producer(entry_of(stdio_tool())).adopted(message, payload(call))
    assert adopted_head(made).reply == reply


def test_without_a_deadline_it_is_the_longest_time_of_a_request() -> None:
    """By Redis' clock, from the moment at which it was found."""
    call = invocation("echo")
    wire = payload(call)
    del wire["deadline"]
    _, made, _ = producer(entry_of(stdio_tool())).adopted(stock(call), wire)
    assert adopted_head(made).deadline == NOW + 10_000


def test_a_head_that_it_brings_is_worth_nothing() -> None:
    """Only this side writes heads: it might name another's session."""
    call = invocation("echo", tenant="t", client="c")
    message = stock(call)
    forged = replace(message, envelope={**message.envelope, MEMBER: head("x", session="victim:c").text()})
    _, made, _ = producer(entry_of(stdio_tool())).adopted(forged, payload(call))
    assert adopted_head(made).session == "t:c"
    assert made.count(b"victim") == 0


# -- what does not become a call ------------------------------------------------------------------------


def test_a_call_in_another_tools_queue_is_refused() -> None:
    """It would be counted and bounded as that one's; the refusal names the right queue."""
    call = invocation("echo")
    with pytest.raises(InvalidRequest, match=r"goes to the queue tool\.local") as refused:
        producer(entry_of(stdio_tool())).adopted(stock(call, queue="tool.other"), payload(call))
    assert refused.value.data == {"field": "tool"}


def test_a_call_of_an_unknown_tool_is_refused() -> None:
    """Its queue may have outlived it."""
    call = invocation("echo")
    with pytest.raises(ToolNotFound, match="'local'"):
        producer().adopted(stock(call), payload(call))


@pytest.mark.parametrize("deadline", [-1, -(2**62), 2**63 - 1, 90_000_000_000_000, 1.5, "soon", True, None])
def test_what_is_no_moment_is_no_deadline(deadline: Any) -> None:
    """No script could read the head, and the call would never end."""
    call, one = invocation("echo"), producer(entry_of(stdio_tool()))
    wire = payload(call, deadline=deadline)
    with pytest.raises(InvalidRequest) as refused:
        one.adopted(stock(call), wire)
    assert refused.value.data == {"field": "deadline"}
    with pytest.raises(InvalidRequest):
        one.fresh(wire, call.id)


def test_a_message_that_cannot_be_written_again_is_refused() -> None:
    """It can be read though: nested deeper than is ever written."""
    call = invocation("echo")
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    message = stock(call)
    nested = replace(message, envelope={**message.envelope, "vendor": deep})
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        producer(entry_of(stdio_tool())).adopted(nested, payload(call))


@pytest.mark.parametrize("deadline", [-5, 2**63 - 1])
def test_a_stock_call_with_an_impossible_deadline_is_answered(deadline: int, bench: Bench) -> None:
    """Through the whole worker: it gets its refusal, and is not tried for ever."""
    call = invocation("echo", {"text": "x"})
    message = bench.stock_message(call)
    body = orjson.loads(message["body"])
    body[0][0]["deadline"] = deadline
    bench.push(orjson.dumps({**message, "body": orjson.dumps(body).decode()}))
    failure = bench.result(call.id).failure
    assert failure is not None
    assert failure.data == {"field": "deadline"}
    wait_until(lambda: bench.unacked() == 0, description="the acknowledgement")


# -- a delayed call that is due -------------------------------------------------------------------------


def test_a_delayed_call_asks_for_its_place_like_any_other() -> None:
    """Under the bounds of its tool, with a message of our own form."""
    call = invocation("echo", tenant="t", client="c")
    tool = stdio_tool(queue_max_length=3, queue_max_age=4.0, circuit=CircuitRules(probes=2))
    entry, order = producer(entry_of(tool)).fresh(payload(call), call.id)
    assert (entry.tool, order.queue, order.session) == (tool, QUEUE, None)
    assert (order.bounds.max_length, order.bounds.max_age) == (3, 4.0)
    assert (order.may_create, order.circuit_probes) == (True, 2)
    message = read_message(order.message, QUEUE)
    assert (message.id, message.first_argument()) == (call.id, payload(call))
    assert (adopted_head(order.message).session, adopted_head(order.message).reply) == ("t:c", "")


def test_a_delayed_call_goes_on_with_its_trace() -> None:
    """Celery's timer had the message meanwhile."""
    call, trace = invocation("echo"), {"traceparent": f"00-{5:032x}-{7:016x}-01"}
    _, order = producer(entry_of(stdio_tool())).fresh(payload(call), call.id, trace)
    assert read_message(order.message, QUEUE).headers["traceparent"] == trace["traceparent"]


def test_of_a_tool_that_is_drained_it_asks_for_no_new_session() -> None:
    """Only its owner's live session may still serve it."""
    entry = replace(entry_of(stdio_tool()), operator=OperatorState(draining=True))
    _, order = producer(entry).fresh(payload(invocation("echo")), "i")
    assert not order.may_create


@pytest.mark.parametrize("wire", [5, None, [], {"v": 99}, {"tenant": "t"}], ids=repr)
def test_what_is_no_invocation_is_refused(wire: Any) -> None:
    """As a refusal that its producer can read."""
    with pytest.raises(GatewayError):
        producer(entry_of(stdio_tool())).fresh(wire, "i")


# -- who may call, and how much -------------------------------------------------------------------------


def bounded(**tenants: Any) -> Producer:
    """One whose settings say this of tenants."""
    settings = Settings.model_validate({"tenants": tenants})
    view = Tenants(cast("Client", None), Keys("test"), settings)
    entries = FixedCatalogue(entry_of(stdio_tool(requests_per_minute=9, burst=2)))
    return Producer(Keys("test"), FixedClock(), entries.get, settings, view)


@pytest.mark.parametrize("tenants", [{"listed": ["other"]}, {"listed": [{"id": "t", "enabled": False}]}])
def test_a_tenant_that_may_not_call_may_not_by_this_way(tenants: dict[str, Any]) -> None:
    """Neither one that nobody listed, nor one that is suspended."""
    call = invocation("echo", tenant="t")
    for made in (
        lambda: bounded(**tenants).adopted(stock(call), payload(call)),
        lambda: bounded(**tenants).fresh(payload(call), "id"),
    ):
        with pytest.raises(Forbidden):
            made()


def test_a_stock_call_counts_for_all_that_others_count_for() -> None:
    """Its rates go along when it is put on the queue, and its permits in its head."""
    limit = {"tool": "local", "name": "e*", "requests_per_minute": 5}
    of = bounded(listed=[{"id": "t", "requests_per_minute": 7, "max_calls": 3, "capabilities": [limit]}])
    call = invocation("echo", tenant="t", client="c")
    _, made, buckets = of.adopted(stock(call), payload(call))
    _, order = of.fresh(payload(call), call.id)
    assert [bucket.whose for bucket in buckets] == ["tenant", "capability", "tool"]
    assert order.buckets == buckets
    assert adopted_head(made).permits == f"{call.deadline + 12_000}:3:0:t:c"
