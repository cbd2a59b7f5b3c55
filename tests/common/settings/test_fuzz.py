"""Whatever is in the file, the result is settings or one typed error."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common.domain.errors import ConfigurationError
from common.settings import Settings, load, masked
from common.settings.document import Document
from common.settings.entry import ENTRY_KEYS
from common.settings.layers import KEYS, VARIABLES
from common.settings.load import assemble

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.integers(-2, 70_000)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["${A}", "${B:-1}", "${", "$$", "a,b", "[a", "[1, {a: b}]", "http://h", "redis://h", "\ud800"]
    )
    | st.dates()
    | st.binary(max_size=4)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)
SECTIONS: dict[str, list[str]] = {}
for _section, _key in KEYS.values():
    SECTIONS.setdefault(_section, []).append(_key)
FILES = st.fixed_dictionaries(
    {},
    optional={
        **{
            name: TREES | st.fixed_dictionaries({}, optional=dict.fromkeys(keys, TREES))
            for name, keys in SECTIONS.items()
        },
        "tools": TREES
        | st.dictionaries(
            st.text(max_size=5),
            TREES | st.fixed_dictionaries({}, optional=dict.fromkeys(ENTRY_KEYS, TREES)),
            max_size=3,
        ),
        "other": TREES,
    },
)


def outcome(
    tree: Any, environ: dict[str, str] | None = None, overrides: dict[str, Any] | None = None
) -> Settings | ConfigurationError:
    try:
        return assemble(Document(tree=tree, lines={}), environ or {}, overrides=overrides, name="f")
    except ConfigurationError as error:
        return error


@settings(deadline=None, max_examples=300)
@given(FILES | TREES)
def test_any_tree_is_settings_or_a_typed_error(tree: Any) -> None:
    """And what was accepted can be shown."""
    found = outcome(tree, {"A": "1"})
    if isinstance(found, Settings):
        assert masked(found)["web"]["port"] == found.web.port


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(sorted(VARIABLES)) | st.text(max_size=5).map(lambda name: f"CANALGATE_{name}"),
        st.text(max_size=12) | st.sampled_from(["1", "true", "[a", "[{a: b}]", "a,b", "[&a [*a]]"]),
        max_size=4,
    ),
    st.dictionaries(st.sampled_from(sorted(KEYS)) | st.text(max_size=5), TREES, max_size=3),
)
def test_any_environment_and_options_are_settings_or_a_typed_error(
    environ: dict[str, str], overrides: dict[str, Any]
) -> None:
    """Text of any kind, and values of any type."""
    assert isinstance(outcome({}, environ, overrides), Settings | ConfigurationError)


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=60)
    | st.text(alphabet=st.sampled_from("ab:{}[]&*!%|>'\"# -,\n\t$?<=~0._\x00\ufeff\x85"), max_size=40).map(
        str.encode
    )
    | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_settings_or_a_typed_error(content: bytes) -> None:
    """A file that is no configuration never gives a traceback."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "c.yaml"
        file.write_bytes(content)
        with suppress(ConfigurationError):
            assert isinstance(load(file, {}), Settings)


@settings(deadline=None, max_examples=200)
@given(FILES)
def test_no_message_repeats_a_value(tree: Any) -> None:
    """Every text value of the file is replaced by a mark that must not come out again."""
    found = outcome(mark(tree))
    problems = found.tool_problems if isinstance(found, Settings) else ()
    told = (
        [str(found)] if isinstance(found, ConfigurationError) else [problem.message for problem in problems]
    )
    assert not any("hunter2" in message for message in told)


def mark(value: Any) -> Any:
    if isinstance(value, str):
        return f"{value.replace('$', '')}hunter2"
    if isinstance(value, dict):
        return {key: mark(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mark(item) for item in value]
    return value
