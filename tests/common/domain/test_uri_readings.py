"""What a URI may be taken for, and how rules are held against it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.domain.policy_rules import UriGlob
from common.domain.uri_readings import readings_of

DENIED = UriGlob.of("file:///etc/*")
HOST = UriGlob.of("https://internal.example/*")
EXACT = UriGlob.of("note://team/secret")

SPELLINGS: dict[str, tuple[UriGlob, tuple[str, ...]]] = {
    "file": (
        DENIED,
        (
            "file:///etc/passwd",
            "FILE:///etc/passwd",
            "file:/etc/passwd",
            "file://localhost/etc/passwd",
            "file://LOCALHOST/etc/passwd",
            "file://127.0.0.1/etc/passwd",
            "file:////etc/passwd",
            "file:///etc//passwd",
            "file:///%65tc/passwd",
            "file:///%65%74%63%2Fpasswd",
            "file:///%2565tc/passwd",
            "file:///\uff45tc/passwd",
        ),
    ),
    "host": (
        HOST,
        (
            "https://internal.example/a",
            "HTTPS://INTERNAL.example/a",
            "https://internal.example:443/a",
            "https://internal.example:0443/a",
            "https://internal.example:/a",
            "https://internal.example./a",
            "https://user:pw@internal.example/a",
            "https://good.example@internal.example/a",
            "https://internal%2Eexample/a",
            "https://internal\u3002example/a",
            "https://internal.example",
            "https://internal.example?a",
        ),
    ),
    "exact": (
        EXACT,
        (
            "note://team/secret",
            "NOTE://team/secret",
            "note://Team/secret",
            "note://team/secret#part",
            "note://team/secret?version=2",
            "note://team/secret/",
            "note://team//secret",
            "note://team/%73ecret",
            "note://team%2Fsecret",
            "note://team/secret%3Fa",
            "note://team/secret%23a",
        ),
    ),
}


@pytest.mark.parametrize(("glob", "uri"), [(glob, uri) for glob, uris in SPELLINGS.values() for uri in uris])
def test_a_denial_is_not_passed_by_another_spelling(glob: UriGlob, uri: str) -> None:
    """Each of these a backend may take for what is denied."""
    readings = readings_of(uri)
    assert readings is not None
    assert glob.may_match(readings)


@pytest.mark.parametrize(
    "uri",
    [
        "note://public/../secret",
        "note://public/%2e%2e/secret",
        "note://public/%252e%252e/secret",
        "note://public/..%2Fsecret",
        "note://public/./a",
        "note://public/a/..",
        "note://../a",
        "note:../a",
        "file:///public/..\\secret",
        "note://public/a\\b",
        "note://public/%5Cb",
        "note://public/%00",
        "note://public/a\nb",
        "note://public/%zz",
        "note://public/%",
        "note://public/%ff",
        "note://public/%2525252561",
        "note://public/\uff0e\uff0e/secret",
        "note://" + "a" * 9000,
    ],
)
def test_what_has_no_certain_reading_has_none(uri: str) -> None:
    """It could lead out of where it seems to be, or cannot be read at all."""
    assert readings_of(uri) is None


@pytest.mark.parametrize(
    ("pattern", "uri", "expected"),
    [
        ("note://public/*", "note://public/a", True),
        ("note://public/*", "note://public/a%20b", True),
        ("note://public/*", "note://public/a b", True),
        ("note://public/*", "note://public/100%25", True),
        ("note://public/*", "note://public/a..b/c.", True),
        ("note://A/*", "note://A/b", True),
        ("note://A/*", "note://a/b", False),
        ("note://public/*", "note://secret/a", False),
        ("https://good.example*", "https://good.example@evil.example/", False),
        ("*/public/*", "note://secret?/public/x", False),
        ("*/public/*", "note://secret#/public/x", False),
        ("api://x?user=*", "api://x?user=me", True),
        ("note://public/*", "note%3A//public/a", False),
        ("https://h/*", "https://h/", True),
        ("repo://*", "repo://o/r/contents/src%2Fmain.py", True),
        ("note://{id}/page", "note://{id}/page", True),
        ("urn:isbn:*", "urn:isbn:1", True),
    ],
)
def test_a_permission_needs_every_reading(pattern: str, uri: str, expected: bool) -> None:
    """Also the URI exactly as it came: what a backend tells apart the pattern does not make one."""
    readings = readings_of(uri)
    assert readings is not None
    assert UriGlob.of(pattern).must_match(readings) is expected


@pytest.mark.parametrize(
    ("pattern", "uri"), [("FILE:///etc/*", "file:///etc/x"), ("https://H:443/*", "https://h/x")]
)
def test_a_pattern_may_be_spelled_otherwise_too(pattern: str, uri: str) -> None:
    """It is read as URIs are."""
    readings = readings_of(uri)
    assert readings is not None
    assert UriGlob.of(pattern).may_match(readings)


@pytest.mark.parametrize("pattern", ["note://a/../b", "note://%zz", "a\\b"])
def test_a_pattern_that_no_uri_fits_is_refused(pattern: str) -> None:
    """It would deny nothing, and nobody would notice."""
    with pytest.raises(ValueError, match="must be plain"):
        UriGlob.of(pattern)


@given(st.text(max_size=40), st.sampled_from(["note://", "file:/", "https://h:1/", "", "urn:"]))
def test_nothing_breaks_it(rest: str, start: str) -> None:
    """Any text has readings, or none."""
    readings = readings_of(start + rest)
    if readings is not None:
        assert UriGlob.of("*").may_match(readings)
        assert UriGlob.of("*").must_match(readings)


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%\\./?#@:*"), min_size=1)
)
def test_percent_encoding_never_passes_a_denial(name: str) -> None:
    """However much of it is encoded."""
    encoded = "".join(f"%{ord(letter):02x}" for letter in name)
    readings = readings_of(f"note://a/{encoded}")
    assert readings is not None
    assert UriGlob.of(f"note://a/{name}").may_match(readings)
