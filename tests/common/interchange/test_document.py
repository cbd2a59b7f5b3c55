"""Entries are added to canalgate.yaml, and the rest stays."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.errors import ConfigurationError
from common.interchange import merge_into_yaml
from common.settings import document

NEW = {"new": {"command": "x", "args": ["8080", "yes"], "env": {"K": "${K}"}}}


def data(text: str) -> Any:
    return document.parse(text, name="f").tree


@pytest.mark.parametrize("text", ["", "# a comment\n", "web: {port: 1}\n", "web:\n  port: 1"])
def test_without_tools_a_block_is_added(text: str) -> None:
    """What was there stays, letter for letter."""
    merged = merge_into_yaml(text, NEW)
    assert merged.startswith(text)
    assert data(merged) == {**(data(text) or {}), "tools": NEW}


@pytest.mark.parametrize(
    "text",
    [
        "# top\ntools:\n  # the first\n  a:\n    command: y  # why\n\n# below\nweb:\n  port: 1  # here\n",
        "tools:\n    a: {command: y}\n\n\n# below\nweb: {port: 1}\n",
        "web: {port: 1}\ntools:\n  a:\n    command: y",
        "web: {port: 1}\ntools:\n  a:\n    command: |\n      y\n\n# the end\n",
        "tools:\n  a:\n    command: y\n  # about b\n  b:\n    command: z\n...\n",
    ],
)
def test_comments_stay_where_tools_are_in_block_style(text: str) -> None:
    """Only lines are added, and none is changed."""
    merged = merge_into_yaml(text, NEW)
    assert data(merged) == {**data(text), "tools": {**data(text)["tools"], **NEW}}
    left = iter(merged.splitlines())
    assert all(line in left for line in text.splitlines())


def test_a_comment_above_the_next_section_stays_above_it() -> None:
    """The new entries come before it."""
    merged = merge_into_yaml("tools:\n  a:\n    command: y\n\n# below\nweb:\n  port: 1\n", NEW)
    assert merged.endswith("\n\n# below\nweb:\n  port: 1\n")


@pytest.mark.parametrize(
    "text",
    [
        "tools: {a: {command: y}}  # c\nweb: {port: 1}\n",
        "{web: {port: 1}}",
        "tools:\nweb: {port: 1}\n",
        "web: {port: 1}\n...\n",
        "  web: {port: 1}\n",
    ],
)
def test_other_layouts_are_written_anew(text: str) -> None:
    """The data stay; the comments may not."""
    before = data(text)
    assert data(merge_into_yaml(text, NEW)) == {**before, "tools": {**(before.get("tools") or {}), **NEW}}


def test_a_name_that_is_taken_is_refused() -> None:
    """Unless replacing was asked for."""
    text = "tools:\n  new:\n    command: old\n  b:\n    command: z\n"
    with pytest.raises(ConfigurationError, match="already has a tool of this name: new"):
        merge_into_yaml(text, NEW)
    assert data(merge_into_yaml(text, NEW, replace=True)) == {"tools": {**NEW, "b": {"command": "z"}}}


def test_nothing_to_add_changes_nothing() -> None:
    """Not even the layout."""
    assert merge_into_yaml("tools: {a: {command: y}}  # c\n", {}) == "tools: {a: {command: y}}  # c\n"


@pytest.mark.parametrize("text", ["[]", "tools: []", "tools: x", "a: b: c", "a: 1\na: 2\n", "text"])
def test_a_text_that_is_no_configuration_is_refused(text: str) -> None:
    """One typed error."""
    with pytest.raises(ConfigurationError):
        merge_into_yaml(text, NEW)


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
ENTRIES = st.dictionaries(
    NAMES,
    st.fixed_dictionaries({"command": NAMES, "args": st.lists(NAMES, max_size=2)}),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=200)
@given(
    ENTRIES,
    st.sampled_from(["", "web: {port: 1}\n", "tools:\n  a b:\n    command: y\n# c\nweb:\n  port: 1\n"]),
)
def test_any_entry_comes_back_as_it_was(entries: dict[str, Any], text: str) -> None:
    """Names and values of any characters."""
    before = data(text) or {}
    assert data(merge_into_yaml(text, entries)) == {**before, "tools": {**before.get("tools", {}), **entries}}


@settings(deadline=None, max_examples=200)
@given(
    st.text(alphabet=st.sampled_from("tols:a{}[]&*#- \n'\"|"), max_size=40).map(
        lambda text: f"tools:\n {text}"
    )
)
def test_any_text_gives_a_document_or_a_typed_error(text: str) -> None:
    """Whatever the user's file looks like."""
    with suppress(ConfigurationError):
        assert data(merge_into_yaml(text, NEW))["tools"]["new"] == NEW["new"]
