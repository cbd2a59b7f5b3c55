"""YAML is read strictly, and its faults are told with a line and without content."""

from __future__ import annotations

import pytest

from common.domain.errors import ConfigurationError
from common.settings.document import MAX_TEXT, parse


def message_for(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, name="f.yaml")
    return caught.value.message


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n", "---\n"])
def test_an_empty_document_is_none(text: str) -> None:
    """Nothing written means nothing set."""
    assert parse(text, name="f").tree is None


def test_lines_are_known_for_every_key_path() -> None:
    """A message can point at the line of any key, also inside lists."""
    lines = parse("web:\n  port: 1\nidentity:\n  api_keys:\n    - key: a\n      tenant: b\n", name="f").lines
    assert lines["web", "port"] == 2
    assert lines["identity", "api_keys", 0, "tenant"] == 6


@pytest.mark.parametrize(
    ("text", "key", "line", "first"),
    [
        ("web: {}\nredis: {}\nweb: {}\n", "web", 3, 1),
        ("web:\n  port: 1\n  port: 2\n", "port", 3, 2),
        ("tools:\n  a: {command: x,\n      command: y}\n", "command", 3, 2),
        ("a: 1\n'a': 2\n", "a", 2, 1),
        ("- {b: 1, b: 2}\n", "b", 1, 1),
    ],
)
def test_a_duplicate_key_is_refused_with_both_lines(text: str, key: str, line: int, first: int) -> None:
    """YAML parsers keep the last of two equal keys; here neither is guessed."""
    assert f"f.yaml:{line}: '{key}' is given twice (first on line {first})" in message_for(text)


def test_a_merge_key_may_be_overridden() -> None:
    """``<<`` brings defaults: giving one of its keys again is its purpose, not a duplicate."""
    text = "a: &a\n  x: {<<: &b {k: 1, l: 2}, k: 3}\nc:\n  <<: *a\n  d: {<<: *b, l: 5}\n"
    assert parse(text, name="f").tree["c"] == {"x": {"k": 3, "l": 2}, "d": {"k": 1, "l": 5}}


def test_keys_are_the_text_that_was_written() -> None:
    """YAML 1.1 would read these keys as true, 123, 83 and a date."""
    tree = parse("on: 1\n123: 1\n0123: 1\n2020-01-01: 1\n", name="f").tree
    assert list(tree) == ["on", "123", "0123", "2020-01-01"]


@pytest.mark.parametrize("written", ["8080", "0123", "yes", "1.10", "12:30", "2020-01-01", "0x1F"])
@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("tools: {a: {env: {K: %s}}}", ("tools", "a", "env", "K")),
        ("tools: {a: {headers: {K: %s}}}", ("tools", "a", "headers", "K")),
        ("tools: {a: {args: [%s]}}", ("tools", "a", "args", 0)),
    ],
)
def test_arguments_variables_and_headers_are_taken_as_written(
    written: str, text: str, path: tuple[str | int, ...]
) -> None:
    """What goes into a child's environment is text; a zip code must not become another number."""
    value = parse(text % written, name="f").tree
    for part in path:
        value = value[part]
    assert value == written


def test_elsewhere_numbers_stay_numbers() -> None:
    """The rule for text holds in the three places that are text, and nowhere else."""
    tree = parse("tools: {a: {request_timeout: 5}}\nweb: {port: 80}", name="f").tree
    assert tree == {"tools": {"a": {"request_timeout": 5}}, "web": {"port": 80}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("web: {port: 1", "f.yaml:1: not valid YAML"),
        ("web:\n\tport: 1", "f.yaml:2: not valid YAML"),
        ("a: b: c", "f.yaml:1: not valid YAML"),
        ("a: 1\n---\nb: 1\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "f.yaml:1: a key must be text"),
        ("a: \x00", "a character that YAML does not allow (U+0000)"),
        ("a: !!timestamp x", "that YAML cannot read"),
        ("a: !!int x", "that YAML cannot read"),
        ("a: " + "1" * 5000, "that YAML cannot read"),
        ("a: &x [*x]", "nested deeper than"),
        ("a: &x {b: *x}", "nested deeper than"),
        ("[" * 100 + "]" * 100, "nested deeper than"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "b" * MAX_TEXT, "longer than"),
    ],
)
def test_what_is_no_sane_yaml_is_refused(text: str, said: str) -> None:
    """Every fault of the text becomes one typed error."""
    assert said in message_for(text)


def test_a_billion_laughs_are_refused() -> None:
    """Aliases are counted as often as they are used, before anything is built."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "values (aliases counted each time)" in message_for("\n".join(rows))


@pytest.mark.parametrize(
    "text",
    [
        "redis: {url: *hunter2}",
        "key: !hunter2 x",
        "key: &hunter2 x\nb: &hunter2 y\nc: [",
        "key: 'hunter2",
        'key: "hunter2\\q"',
        "key: hunter2: x",
        "%hunter2 x y\n",
        "key: @hunter2",
        "key: |hunter2\n",
    ],
)
def test_a_fault_never_shows_what_was_written(text: str) -> None:
    """A password that begins with ``*`` must not reach a log because YAML reads an alias."""
    assert "hunter2" not in message_for(text)
