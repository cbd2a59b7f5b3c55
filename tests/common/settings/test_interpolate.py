"""References to environment variables in strings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.settings.interpolate import interpolate

ENVIRON = {"NAME": "value", "EMPTY": "", "_x1": "under", "MONEY": "$$ ${NAME}"}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("${NAME}", "value"),
        ("${env:NAME}", "value"),
        ("a ${NAME}${NAME} b", "a valuevalue b"),
        ("${_x1}", "under"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${UNSET:-d}", "d"),
        ("${env:UNSET:-d}", "d"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b c}", "a:-b c"),
        ("${NAME:-d}", "value"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$value"),
        ("$HOME $5 a$", "$HOME $5 a$"),
        ("${MONEY}", "$$ ${NAME}"),
    ],
)
def test_a_reference_stands_for_its_value(text: str, result: str) -> None:
    """Each form means what the documentation says; a value is not read again."""
    found = interpolate(text, ENVIRON)
    assert (found.tree, found.faults) == (result, ())


def test_strings_are_replaced_everywhere_and_keys_nowhere() -> None:
    """Nested values are reached; keys and other types stay."""
    found = interpolate({"${NAME}": ["${NAME}", {"a": "${NAME}"}, 5, True, None]}, ENVIRON)
    assert found.tree == {"${NAME}": ["value", {"a": "value"}, 5, True, None]}


def test_an_unset_variable_is_a_fault_with_its_name_and_place() -> None:
    """A literal ``${TOKEN}`` must never be sent to a server."""
    found = interpolate({"a": ["x", "${TOKEN} ${env:OTHER}"]}, ENVIRON)
    assert [(fault.path, "TOKEN" in fault.message, "OTHER" in fault.message) for fault in found.faults] == [
        (("a", 1), True, False),
        (("a", 1), False, True),
    ]


@pytest.mark.parametrize(
    "text", ["${", "${}", "${1a}", "${a-b}", "${NAME", "${input:x}", "${A:-${B}}", "${a b}"]
)
def test_a_malformed_reference_is_a_fault_that_repeats_nothing(text: str) -> None:
    """Half a reference is more likely a mistake than text, and may be part of a secret."""
    found = interpolate({"k": text}, {"B": "x"})
    assert [fault.path for fault in found.faults] == [("k",)]
    assert "begins no reference" in found.faults[0].message
    assert "input" not in found.faults[0].message


def test_a_tree_that_contains_itself_is_a_fault() -> None:
    """Nothing loops or exhausts the stack."""
    loop: list[object] = []
    loop.extend([loop, loop])
    assert [fault.message for fault in interpolate(loop, {}).faults] == [
        "too many values, or nested too deeply"
    ]


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet=st.sampled_from("$${}:-aA_1 e\n") | st.characters(), max_size=30))
def test_doubling_every_dollar_gives_any_text_back(text: str) -> None:
    """There is a way to write every text."""
    found = interpolate(text.replace("$", "$$"), {})
    assert (found.tree, found.faults) == (text, ())
