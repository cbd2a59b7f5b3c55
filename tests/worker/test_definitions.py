"""What clients are given of a backend's lists, and what is kept from them, with the reason."""

from __future__ import annotations

import time
from typing import Any

import pytest

from common.mcp.listings import PROMPTS, RESOURCE_TEMPLATES, RESOURCES, TOOLS, Listing
from gateway_worker.definitions import MOST_TOLD, problem, sorted_out

GOOD = {"name": "add", "inputSchema": {"type": "object"}}
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(2000):
    DEEP = {"type": "object", "properties": {"x": DEEP}}


@pytest.mark.parametrize(
    ("listing", "item", "words"),
    [
        (TOOLS, "add", "no object"),
        (TOOLS, {"inputSchema": {"type": "object"}}, "name must be a text"),
        (TOOLS, {**GOOD, "name": ""}, "name must be a text"),
        (TOOLS, {**GOOD, "name": 7}, "name must be a text"),
        (TOOLS, {"name": "add"}, "inputSchema must be a schema"),
        (TOOLS, {"name": "add", "inputSchema": {}}, '"type": "object"'),
        (TOOLS, {"name": "add", "inputSchema": {"type": "string"}}, '"type": "object"'),
        (TOOLS, {**GOOD, "inputSchema": {"type": "object", "required": "a"}}, "inputSchema: at /required"),
        (
            TOOLS,
            {**GOOD, "inputSchema": {"type": "object", "properties": {"a": {"type": "strnig"}}}},
            "inputSchema: at /properties/a/type",
        ),
        (TOOLS, {**GOOD, "outputSchema": 5}, "outputSchema: it is no object"),
        (TOOLS, {**GOOD, "outputSchema": {"type": 5}}, "outputSchema: at /type"),
        (TOOLS, {**GOOD, "inputSchema": DEEP}, "inputSchema: it"),
        (RESOURCES, {"name": "a"}, "uri must be"),
        (RESOURCES, {"uri": "a:b"}, "name must be"),
        (RESOURCE_TEMPLATES, {"uri": "a:b", "name": "a"}, "uriTemplate must be"),
        (PROMPTS, {"title": "x"}, "name must be"),
        (PROMPTS, {"name": "x", "arguments": {}}, "arguments must be a list"),
        (PROMPTS, {"name": "x", "arguments": [{"title": "t"}]}, "arguments must be a list"),
    ],
)
def test_what_clients_would_refuse_is_kept_from_them(listing: Listing, item: Any, words: str) -> None:
    """A client refuses a whole list for one of these."""
    why = problem(listing, item)
    assert why is not None
    assert words in why
    good, bad = sorted_out(listing, [item])
    assert good == ()
    assert bad[0].list == listing.member
    assert len(bad[0].reason) <= 200


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": True, "b": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "definitions": {"a": {}}},
        {"type": "object", "x-vendor": [1], "$comment": "c", "unevaluatedProperties": False},
        {"type": "object", "$ref": "https://nobody.invalid/schema.json"},
        {"$schema": "https://nobody.invalid/dialect", "type": "object"},
    ],
)
def test_schemas_pass_as_they_are(schema: dict[str, Any]) -> None:
    """Each dialect, unknown keywords, references that nobody fetches."""
    item = {"name": "a", "inputSchema": schema, "outputSchema": schema, "x-unknown": 1}
    good, bad = sorted_out(TOOLS, [item])
    assert good == (item,)
    assert good[0] is item
    assert bad == ()


def test_an_output_schema_may_be_of_any_type() -> None:
    """Since 2026-07-28."""
    assert problem(TOOLS, {**GOOD, "outputSchema": {"type": "array"}}) is None


def test_one_bad_item_costs_no_other() -> None:
    """They keep their order."""
    items = [{**GOOD, "name": "a"}, {"name": "bad"}, {**GOOD, "name": "b"}]
    good, bad = sorted_out(TOOLS, items)
    assert [item["name"] for item in good] == ["a", "b"]
    assert [item.name for item in bad] == ["bad"]


def test_of_two_with_one_name_the_first_is_given() -> None:
    """Clients could not tell them apart."""
    items = [{**GOOD, "title": "first"}, {**GOOD, "title": "second"}]
    good, bad = sorted_out(TOOLS, items)
    assert [item["title"] for item in good] == ["first"]
    assert bad[0].reason == "another item has the same name"


def test_so_many_are_told_of() -> None:
    """A backend cannot fill the registry with its mistakes."""
    _, bad = sorted_out(TOOLS, [{"name": "x" * 1000}] * (MOST_TOLD + 5))
    assert len(bad) == MOST_TOLD + 1
    assert bad[-1].reason == "5 more"
    assert len(bad[0].name) == 200


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "enum": [v for n in range(4000) for v in (n, str(n))],
        },
        {"required": [v for n in range(4000) for v in (n, str(n))]},
        {"properties": {str(n): {"type": "string"} for n in range(10_000)}},
        {"properties": {str(n): {"enum": list(range(400))} for n in range(100)}},
    ],
)
def test_no_schema_takes_long(schema: dict[str, Any]) -> None:
    """What would take time by the square, or is endless, is not looked at."""
    begun = time.process_time()
    why = problem(TOOLS, {"name": "a", "inputSchema": {"type": "object", **schema}})
    assert why is not None
    assert "more than" in why
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("template", ["x://" + "{a}" * 17, "x://" + "a" * 1024])
def test_templates_have_their_bounds(template: str) -> None:
    """Each request for a resource may be held against them."""
    assert problem(RESOURCE_TEMPLATES, {"uriTemplate": template, "name": "a"}) is not None


def test_what_is_known_to_be_good_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed one is."""
    known = [{**GOOD, "name": "same"}, {**GOOD, "name": "changed"}]
    looked: list[str] = []
    monkeypatch.setattr("gateway_worker.definitions.problem", lambda _, item: looked.append(item["name"]))
    sorted_out(TOOLS, [{**GOOD, "name": "same"}, {**GOOD, "name": "changed", "title": "x"}], known)
    assert looked == ["changed"]
