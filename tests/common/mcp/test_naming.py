"""Prefixed names: reversible, unambiguous where it can be, within the protocol's character set."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.mcp.naming import clash, exposed_id, name_problem, prefixed, split

TOOL_IDS = st.text(max_size=12) | st.text("ab_x0123ACF .-é", max_size=12)
NAMES = st.text("ab_.-x0", max_size=8)


@pytest.mark.parametrize(
    ("tool_id", "name", "exposed"),
    [
        ("git", "status", "git__status"),
        ("a__b", "c", "a__b__c"),
        ("io.example.v1-2", "x", "io.example.v1-2__x"),
        ("my tool", "x", "my_x0020_tool__x"),
        ("café", "x", "caf_x00E9___x"),
        ("a/b:c", "x", "a_x002F_b_x003A_c__x"),
        ("\N{GRINNING FACE}", "x", "_x1F600___x"),
        ("my_x0020_tool", "x", "my_x005F_x0020_tool__x"),
        ("_x0020é", "x", "_x005F_x0020_x00E9___x"),
        ("linux_x64", "x", "linux_x64__x"),
        ("git", "name with blanks", "git__name with blanks"),
    ],
)
def test_a_prefixed_name_looks_as_documented_and_can_be_split(tool_id: str, name: str, exposed: str) -> None:
    """Ordinary ids stay as they are; other characters become `_xHHHH_`."""
    assert prefixed(tool_id, name) == exposed
    assert split(exposed, {tool_id}) == (tool_id, name)


@pytest.mark.parametrize(
    ("name", "tool_ids", "expected"),
    [
        ("a__b__c", {"a", "a__b"}, ("a__b", "c")),
        ("a__b__c", {"a"}, ("a", "b__c")),
        ("a__b__c", {"a__b"}, ("a__b", "c")),
        ("a__b__c", {"b", "c"}, None),
        ("a___b", {"a"}, ("a", "_b")),
        ("a___b", {"a_"}, ("a_", "b")),
        ("a___b", {"a", "a_"}, ("a_", "b")),
        ("a____b", {"a__", "a"}, ("a__", "b")),
        ("a__", {"a"}, ("a", "")),
        ("plain", {"plain"}, None),
        ("", {"a"}, None),
        ("_x0061___b", {"a"}, None),
        ("_xFFFFFF___b", {"a"}, None),
        ("my tool__b", {"my tool"}, None),
    ],
)
def test_the_longest_fitting_tool_id_wins(
    name: str, tool_ids: set[str], expected: tuple[str, str] | None
) -> None:
    """Ids may contain the separator; an id has exactly one spelling."""
    assert split(name, tool_ids) == expected
    assert split(name, sorted(tool_ids)) == expected


@settings(max_examples=300, deadline=None)
@given(TOOL_IDS, NAMES)
def test_any_tool_id_is_exposed_within_the_character_set_and_found_again(tool_id: str, name: str) -> None:
    """Whatever the id, the exposed form is legal and leads back to it."""
    assert re.fullmatch(r"[A-Za-z0-9_.-]*", exposed_id(tool_id))
    assert split(prefixed(tool_id, name), {tool_id}) == (tool_id, name)


@settings(max_examples=300, deadline=None)
@given(TOOL_IDS, TOOL_IDS)
def test_different_ids_never_look_alike(one: str, other: str) -> None:
    """The escape is injective."""
    assume(one != other)
    assert exposed_id(one) != exposed_id(other)


@settings(max_examples=300, deadline=None)
@given(st.sets(st.text("a_", min_size=1, max_size=5), max_size=4), st.text("a_", max_size=5))
def test_without_a_clash_every_capability_of_every_tool_is_reachable(ids: set[str], name: str) -> None:
    """`clash` finds exactly the sets of ids for which some name could be taken for another tool's."""
    if clash(ids) is None:
        assert all(split(prefixed(tool_id, name), ids) == (tool_id, name) for tool_id in ids)
    else:
        shorter, longer = clash(ids) or ("", "")
        hidden = prefixed(longer, "x")[len(prefixed(shorter, "")) :]
        assert {shorter, longer} <= ids
        assert split(prefixed(shorter, hidden), ids) != (shorter, hidden)


def test_a_hostile_name_is_split_in_no_time() -> None:
    """Megabytes of separators cost what the longest id allows; a quadratic search would time out."""
    assert split("_" * 4_000_000, {"a", "b" * 50}) is None
    assert split("a__" + "_" * 4_000_000, {"a"}) == ("a", "_" * 4_000_000)
    long_id = "é" * 200
    assert split(prefixed(long_id, "x" * 600), {long_id}) == (long_id, "x" * 600)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a", None),
        ("A-Z_a.z-09", None),
        ("x" * 128, None),
        ("x" * 129, "129 characters"),
        ("", "empty"),
        ("with blank", "characters outside"),
        ("é", "characters outside"),
        ("a\n", "characters outside"),
    ],
)
def test_names_that_clients_may_refuse_are_flagged(name: str, problem: str | None) -> None:
    """The reason is given; such names are still served."""
    found = name_problem(name)
    assert found is None if problem is None else problem in (found or "")
